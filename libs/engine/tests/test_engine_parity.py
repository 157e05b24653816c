"""Logged vectors against the log they rest on: what was streamed is equal, a change of 1e-9 is found and named."""

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pytest

from tidemill_contracts.base import format_time
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.entities import RowReader, event_mark
from tidemill_engine.expressions import compile_expression, field_types
from tidemill_engine.parity import Answer, Archived, Layout, Logged, Parity, check
from tidemill_engine.parity.check import REVISION
from tidemill_engine.windows import ViewState, compile_view

pytestmark = pytest.mark.timeout(300)  # the first run on a machine compiles the kernels

MINUTE, DAY = 60_000_000, 86_400_000_000
BASE = 20_000 * DAY
SPEC = PipelineSpec.model_validate_json(
    json.dumps(
        {
            "version": 1, "name": "p", "partitions": 2,
            "sources": {"sales": {"key": ["shop"], "time": "at", "fields": {
                "shop": {"type": "string"}, "at": {"type": "timestamp"},
                "price": {"type": "float", "required": False},
                "kind": {"type": "category", "values": ["a", "b", "c"], "required": False}}}},
            "entities": {"shop": {"key": ["shop"]}},
            "views": {"till": {
                "source": "sales", "entity": "shop", "where": "price > 0", "ttl": "2d",
                "windows": {"1h": {"length": "1h"}, "1d": {"length": "1d", "panes": 24}},
                "aggregations": [
                    {"function": "mean", "field": "price"}, {"function": "count", "windows": ["1h"]},
                    {"function": "last", "field": "price", "all_time": True},
                    {"function": "age_of_last", "field": "price", "all_time": True},
                    {"function": "lag", "field": "price", "n": 2, "all_time": True},
                    {"function": "distinct", "field": "kind", "windows": ["1d"]},
                    {"function": "top", "field": "kind", "windows": ["1d"]},
                    {"function": "ewma", "field": "price", "half_life": "2h", "windows": ["1d"]},
                    {"function": "ratio", "dividend": "price_mean_1h", "divisor": "price_mean_1d"}]}},
            "request": {"key": "id", "fields": {
                "id": {"type": "string"}, "shop": {"type": "string"}, "x": {"type": "float"}},
                "features": {"double": "x * 2"}},
            "label": {"source": "sales", "join": "shop", "expression": "price"},
        }
    )
)  # fmt: skip
NAMES = SPEC.feature_names()
VERSION = SPEC.view_version("till")


class World:
    """A log of two partitions, the stream's state over it, and the answers that read the state."""

    def __init__(self, seed: int, events: int = 300) -> None:
        draw = Random(seed)
        self.plan = compile_view(SPEC.views["till"], SPEC.sources["sales"])
        self.rows: list[tuple[int, int, str, int, dict[str, Any]]] = []
        self.answers: list[Answer] = []
        seqs, now = [0, 0], BASE
        read = RowReader(self.plan.fields, SPEC.sources["sales"].fields)
        state = ViewState(self.plan)
        for number in range(events):
            now += draw.choice([1, MINUTE, 20 * MINUTE, 4 * 60 * MINUTE] + ([3 * DAY] if number % 97 == 96 else []))
            partition = draw.randrange(2)
            at = now - draw.randrange(5 * MINUTE)
            price = draw.choice([None, -1.0, draw.uniform(0, 100), draw.uniform(0, 1e6)])
            shop = f"s{draw.randrange(4)}"
            body = {"shop": shop, "at": format_time(at), "price": price, "kind": draw.choice(["a", "b", "c", None])}
            self.rows.append((partition, seqs[partition], f"e{number}", at, body))
            if price is not None and price > 0:
                state.apply(
                    [shop.encode()], np.array([at]), np.array([event_mark(f"e{number}")], np.uint64),
                    np.array([read(body)]), (np.array([partition], np.int32), np.array([seqs[partition]])),
                )  # fmt: skip
            seqs[partition] += 1
            if draw.random() < 0.3:
                state.advance(now - 5 * MINUTE)
            if draw.random() < 0.6:
                self._answer(state, f"s{draw.randrange(5)}", now, draw.uniform(-5, 5))

    def _answer(self, state: ViewState, shop: str, now: int, x: float) -> None:
        row = state.lookup([shop.encode()])
        values = np.full((1, len(NAMES) - 1), np.nan)
        read: dict[str, Any] = {"entity": shop, "revision": 0, "at_us": None, "positions": {}}
        watermark = None if now % 3 == 0 else now
        if row[0] >= 0:
            values, at, revision = state.vectors(row)
            positions = {str(p): seq for p, seq in state.positions(row)[0].items()}
            read |= {"revision": int(revision[0]), "at_us": int(at[0]), "positions": positions}
            if watermark is not None:
                age = np.rint(values[0, 4] * 1e6) + (watermark - int(at[0]))
                values[0, 4] = max(age, 0.0) / 1e6
        double = compile_expression("x * 2", field_types(SPEC.request.fields)).row({"x": x})
        vector = [None if np.isnan(value) else value for value in values[0].tolist()] + [double]
        request = json.dumps({"id": "i", "shop": shop, "x": x}).encode()
        name, place = f"p{len(self.answers)}", (0, len(self.answers))
        self.answers.append(Answer(name, place, now, watermark, vector, request, {"till": json.dumps(read).encode()}))

    def read(self, source: str, below: Mapping[int, int]) -> Archived:
        assert source == "sales"
        kept = sorted((row for row in self.rows if row[1] < below.get(row[0], 0)), key=lambda row: row[:2])
        assert len(kept) == sum(below.values())
        partitions, seqs, times = (np.array([row[at] for row in kept], np.int64) for at in (0, 1, 3))
        ids, bodies = [row[2] for row in kept], [row[4] for row in kept]
        return Archived(partitions, seqs, 10 * seqs + 3, ids, times, bodies)

    def check(self) -> Parity:
        logged = Logged({1: Layout(SPEC, NAMES)})
        for answer in self.answers:
            assert logged.add(1, Layout(SPEC, NAMES).digest, answer)
        return check(logged, self.read)

    def tamper(self, at: int, column: int, by: float) -> Answer:
        answer = self.answers[at]
        vector = list(answer.vector)
        vector[column] = vector[column] + by
        self.answers[at] = answer._replace(vector=vector)
        return answer


def known(world: World) -> list[int]:
    """Answers in the second half that read a known entity."""
    return [
        at for at in range(len(world.answers) // 2, len(world.answers))
        if json.loads(world.answers[at].revisions["till"])["revision"] and world.answers[at].vector[0] is not None
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_what_a_stream_told_is_what_its_log_gives(seed: int) -> None:
    world = World(seed)
    found = world.check()
    assert (found.mismatches, found.first, found.features) == (0, [], {})
    assert (found.checked, found.values) == (len(world.answers), len(NAMES) * len(world.answers))
    assert any(not json.loads(each.revisions["till"])["revision"] for each in world.answers)


@pytest.mark.parametrize("column", range(len(NAMES)))
def test_a_change_of_1e_9_is_found_and_named(column: int) -> None:
    world = World(3)
    at = next(
        each for each in known(world)
        if (value := world.answers[each].vector[column]) is not None and value + 1e-9 != value
    )  # fmt: skip
    true = world.tamper(at, column, 1e-9)
    found = world.check()
    view, name = NAMES[column].split(".")
    assert found.mismatches == 1
    assert found.features == {NAMES[column]: 1}
    (first,) = found.first
    assert (first.prediction_id, first.place, first.view, first.feature) == (true.prediction_id, true.place, view, name)
    assert (first.logged, first.computed) == (world.answers[at].vector[column], true.vector[column])
    if view == "till":
        assert first.since is not None
        row = next(row for row in world.rows if row[2] == first.since.id)
        assert (first.since.source, first.since.partition, first.since.seq) == ("sales", row[0], row[1])
        assert first.since.offset == 10 * row[1] + 3
        assert row[4]["shop"] == first.entity


def test_an_event_that_is_counted_but_missing_is_found() -> None:
    world = World(5)
    at = known(world)[0]
    read = json.loads(world.answers[at].revisions["till"])
    world.answers[at] = world.answers[at]._replace(
        revisions={"till": json.dumps(read | {"revision": read["revision"] + 1}).encode()}
    )
    found = world.check()
    assert found.mismatches == 1
    assert found.features == {f"till.{REVISION}": 1}
    assert found.first[0].logged == (found.first[0].computed or 0) + 1


def test_a_vector_from_before_its_own_events_has_no_value() -> None:
    world = World(5)
    at = known(world)[0]
    read = json.loads(world.answers[at].revisions["till"])
    world.answers[at] = world.answers[at]._replace(revisions={"till": json.dumps(read | {"at_us": BASE}).encode()})
    assert world.check().mismatches == 1


def test_answers_of_other_releases_and_broken_ones_are_counted() -> None:
    world = World(1, events=20)
    logged = Logged({1: Layout(SPEC, NAMES)})
    digest, answer = Layout(SPEC, NAMES).digest, world.answers[0]
    assert not logged.add(2, digest, answer)
    assert not logged.add(1, "0" * 64, answer)
    assert not logged.add(1, digest, answer._replace(vector=[0.0]))
    assert not logged.add(1, digest, answer._replace(revisions={}))
    assert logged.unknown == 4
    assert check(logged, world.read).unknown == 4


def test_a_layout_of_fewer_features_in_another_order_and_of_an_unknown_one() -> None:
    world = World(2)
    names = [NAMES[-1], NAMES[4], NAMES[0]]
    layout = Layout(SPEC, names)
    logged = Logged({1: layout})
    for answer in world.answers:
        vector = [answer.vector[-1], answer.vector[4], answer.vector[0]]
        assert logged.add(1, layout.digest, answer._replace(vector=vector))
    found = check(logged, world.read)
    assert (found.mismatches, found.checked) == (0, len(world.answers))
    with pytest.raises(ValueError, match="defines 1 of 2"):
        Layout(SPEC, [NAMES[0], "till.nothing"])
