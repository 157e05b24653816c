"""Shadows against the answers: a labelled row counts once, whenever the shadow's word and the label came."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill_contracts import derived_id
from tidemill_contracts.events import Prediction, Shadowed, encode
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.pipeline import GateSpec, parse_pipeline
from tidemill_engine.stats import DAY_US, LossSums, block_mean, row_log_loss
from tidemill_monitoring import api, store
from tidemill_monitoring.domain import state
from tidemill_monitoring.domain.join import Entry, Kind, Label
from tidemill_monitoring.domain.merge import Input, OrderedMerge, Row
from tidemill_monitoring.domain.monitor import Monitor
from tidemill_monitoring.domain.read import read_prediction
from tidemill_monitoring.domain.rivals import Answered, Place, Rivals, RivalSums, Said, figures, said_of
from tidemill_monitoring.domain.writers import Progress
from tidemill_runtime.http import App
from tidemill_runtime.postgres import Pool, migrate, open_pool

pytestmark = pytest.mark.anyio
SECOND, HOUR = 1_000_000, 3_600_000_000
ANSWERS, LABELS, WRITER = ("predictions", 0), ("labels", 0), "/services/serving/a/0"
SPEC = parse_pipeline(
    b"""
version: 1
name: demo
sources:
  clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean}}}
request: {key: user, fields: {user: {type: string}}, features: {a: "1"}}
label: {source: clicks, join: user, expression: bought, expiry: 2d}
gate: {minimum_rows: 10, minimum_blocks: 2}
"""
)
Totals = dict[Place, RivalSums]


def a_prediction(key: str, at_us: int, score: float = 0.5, version: int = 1, name: str = "") -> Prediction:
    return Prediction(
        prediction_id=prediction_id("demo", name or key), pipeline="demo", key=key, at_us=at_us, epoch=1,
        model="a" * 64, version=version, score=score, vector=[1.0], features="b" * 64, revisions={}, request={},
    )  # fmt: skip


def shadowed(prediction: Prediction, *failed: str, **scores: float) -> Shadowed:
    models = dict.fromkeys([*scores, *failed], "c" * 64)
    return Shadowed(
        prediction_id=prediction.prediction_id, pipeline="demo", key=prediction.key, at_us=prediction.at_us, epoch=1,
        scores=scores, models=models, failed=dict.fromkeys(failed, "late"),
    )  # fmt: skip


def row_of(event: Prediction | Shadowed, offset: int = 0) -> Row:
    """As serving writes it, read as the merge reads it."""
    identity = str(event.prediction_id)
    if isinstance(event, Shadowed):
        identity = str(derived_id("shadowed", identity))
    found = read_prediction(encode(event, id=identity, source=WRITER, time_us=event.at_us), ANSWERS, offset).row
    assert found is not None
    return found


def label_row(key: str, at_us: int, value: float = 1.0) -> Row:
    return Row(at_us, f"label-{key}", LABELS, 0, Label(key, at_us, value, f"label-{key}", 0, 0))


def written(monitor: Monitor) -> Monitor:
    """The same monitor after a restart."""
    join = monitor.join
    kept: dict[Kind, list[Entry]] = {
        "prediction": [*join.predictions.values()], "label": [*join.labels.values()],
        "closed": [*join.closed.values()], "said": [*join.said.values()],
    }  # fmt: skip
    again = state.load(SPEC, state.dump(monitor))
    again.rivals = monitor.rivals  # the store adds up what has come to them
    for kind, entries in kept.items():
        for entry in entries:
            again.join.restore(kind, entry)
    return again


def test_a_shadow_is_compared_on_the_rows_that_it_has_a_score_for() -> None:
    monitor = state.fresh(SPEC)
    answers = [a_prediction(str(n), n * SECOND, 0.5) for n in range(3)]
    said = [shadowed(answers[0], v2=0.9), shadowed(answers[1], "v2", v3=0.1)]
    rows = [*map(row_of, answers), *map(row_of, said), *(label_row(str(n), HOUR + n) for n in range(3))]
    effects = monitor.fold(sorted(rows))
    assert [(each.name, each.score, each.answer) for each in effects.compared] == [("v2", 0.9, 0.5), ("v3", 0.1, 0.5)]
    assert [outcome.shadows for outcome in effects.outcomes] == [{}, {}, {}]
    one, half = np.array([1.0]), LossSums.of(np.array([1.0]), np.array([0.5]))
    assert monitor.rivals.take_changed() == {
        ("v2", 1, 0): RivalSums("c" * 64, LossSums.of(one, np.array([0.9])), half, failed=1),
        ("v3", 1, 0): RivalSums("c" * 64, LossSums.of(one, np.array([0.1])), half, failed=0),
    }
    assert not monitor.join.said


@pytest.mark.parametrize("first", ["said", "label"])
def test_a_word_counts_once_whether_it_or_the_label_came_first(first: str) -> None:
    monitor, answer = state.fresh(SPEC), a_prediction("k", 0, 0.5)
    said, label = row_of(shadowed(answer, v2=0.75)), label_row("k", HOUR)
    order = [said, label] if first == "said" else [label, said]
    monitor.fold([row_of(answer), *order, said, said])
    (sums,) = monitor.rivals.take_changed().values()
    assert (sums.own.n, sums.answers.n) == (1, 1)
    counts = monitor.join.counts
    assert (counts.shadowed, counts.shadowed_joined, counts.shadowed_unmatched) == (3, 1, 2)


def test_words_that_no_label_will_come_for_are_counted_and_let_go() -> None:
    monitor, expiry = state.fresh(SPEC), SPEC.label.expiry
    never, twice = a_prediction("never", 0), a_prediction("k", 1)
    again = a_prediction("k", 2, name="again")
    words = [shadowed(never, v2=0.5), shadowed(again, v2=0.5), shadowed(a_prediction("unknown", 3), v2=0.5)]
    monitor.fold([*map(row_of, (never, twice, again)), *map(row_of, words)])
    assert list(monitor.join.said) == ["never"]
    assert monitor.join.counts.shadowed_unmatched == 2
    late = row_of(shadowed(twice, v2=0.5))
    monitor.fold([label_row("k", HOUR), late, label_row("other", expiry + HOUR), late])
    assert list(monitor.join.said) == ["k"]
    monitor.fold([label_row("another", 2 * expiry + 3 * HOUR)])
    assert not monitor.join.said
    assert monitor.join.counts.shadowed_unmatched == 4
    assert monitor.join.counts.shadowed_joined == 1
    assert [sums.own.n for sums in monitor.rivals.take_changed().values()] == [1]


def test_a_score_that_is_no_probability_is_none_and_names_are_bounded() -> None:
    answer = a_prediction("k", 0)
    assert said_of(shadowed(answer, a=1.5, b=1.0)).scores == {"b": 1.0}
    many = said_of(shadowed(answer, **{f"v{n}": 0.5 for n in range(100)}))
    assert len(many.models) == len(many.scores) == 32


def test_what_shadows_say_moves_nothing_else() -> None:
    """The same outcomes, decisions and counts, and the same classes of labels, with their words and without."""
    chance = random.Random(3)
    answers = [a_prediction(str(n), n * HOUR, chance.random()) for n in range(200)]
    labels = [label_row(str(n), n * HOUR + chance.randrange(4) * SPEC.label.expiry // 3, 1.0) for n in range(200)]
    words = [replace(row_of(shadowed(each, v2=0.5)), at_us=each.at_us + chance.randrange(HOUR)) for each in answers]
    plain, beside = state.fresh(SPEC), state.fresh(SPEC)
    rows = [*map(row_of, answers), *labels]
    one, other = plain.fold(sorted(rows)), beside.fold(sorted([*rows, *words]))
    assert other.compared
    assert (one.outcomes, one.decisions) == (other.outcomes, other.decisions)
    counts = [replace(m.join.counts, shadowed=0, shadowed_joined=0, shadowed_unmatched=0) for m in (plain, beside)]
    assert counts[0] == counts[1]
    assert set(plain.join.closed) == set(beside.join.closed)


Log = dict[Input, list[Row | int]]
"""Records of each input; a number is a word of the writer that nothing of its own below it follows."""


@st.composite
def logs(draw: st.DrawFn) -> tuple[Log, Log]:
    """Two logs of the same answers, labels and words of shadows, which stand elsewhere among the writer's words."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 30))
    answers = [a_prediction(str(n), n * HOUR, chance.random(), chance.choice([1, 2])) for n in range(count)]
    words = {n: shadowed(answers[n], v3=chance.random()) for n in range(count) if chance.random() < 0.8}
    labels = {n: chance.randrange(40) * HOUR for n in range(count) if chance.random() < 0.8}
    truth: list[Row | int] = [label_row(str(n), n * HOUR + late, float(n % 2)) for n, late in labels.items()]

    def log() -> Log:
        out: list[Row | int] = []
        waiting = list[Shadowed]()
        for n, answer in enumerate(answers):
            out += [row_of(answer), answer.at_us + 1]
            waiting += [words[n]] if n in words else []
            while waiting and chance.random() < 0.5:
                out.append(row_of(waiting.pop(chance.randrange(len(waiting)))))
        out += map(row_of, waiting)
        return {ANSWERS: out, LABELS: chance.sample(truth, len(truth))}

    return log(), log()


def followed(log: Log, seed: int, *, restart: bool) -> Totals:
    """The sums of all days when inputs are read by turns, the merge is released at times, and state is read back."""
    chance, monitor = random.Random(seed), state.fresh(SPEC)
    merge = OrderedMerge([ANSWERS, LABELS])
    turns = [place for place, records in log.items() for _ in records]
    left = {place: iter(enumerate(records)) for place, records in log.items()}
    for place in chance.sample(turns, len(turns)):
        offset, record = next(left[place])
        if isinstance(record, int):
            merge.tell(place, merge.progress(place).told(WRITER, record))
        else:
            merge.push(replace(record, offset=offset))
        if chance.random() < 0.3:
            monitor.fold(merge.release())
            monitor = written(monitor) if restart else monitor
    for place in log:
        merge.tell(place, Progress(10**15))
    monitor.fold(merge.release())
    return monitor.rivals.take_changed()


@given(logs(), st.integers(0, 2**32))
@settings(max_examples=150)
def test_no_order_no_cut_and_no_place_of_a_word_changes_the_figures(both: tuple[Log, Log], seed: int) -> None:
    first, second = both
    expected = followed(first, 0, restart=False)
    assert followed(first, seed, restart=True) == expected
    assert followed(second, seed, restart=True) == expected


def test_the_interval_is_that_of_the_rows_with_days_as_blocks() -> None:
    rng, rivals = np.random.default_rng(5), Rivals()
    times = rng.integers(0, 6 * DAY_US, 400)
    labels, own, answers = (rng.random(400) < 0.4).astype(float), rng.random(400), rng.random(400)
    columns = (times.tolist(), labels.tolist(), own.tolist(), answers.tolist())
    for at_us, label, score, answer in zip(*columns, strict=True):
        said = Said("k", at_us, "id", {"v2": score}, {"v2": "c" * 64})
        rivals.add(said, Answered(label, answer, 1, at_us))
    (found,) = figures(rivals.take_changed().items(), SPEC.gate)
    expected = block_mean(row_log_loss(labels, own) - row_log_loss(labels, answers), times)
    assert found.difference is not None
    assert (found.difference.rows, found.difference.blocks) == (400, 6)
    for name in ("mean", "standard_error"):
        assert getattr(found.difference, name) == pytest.approx(getattr(expected, name), abs=1e-9)
    assert {check.name for check in found.checks} == {"sample", "point_estimate", "no_harm"}


def test_the_gate_of_the_pipeline_says_what_it_thinks_of_a_shadow() -> None:
    def verdict(difference: float, days: int = 5) -> str:
        rivals = Rivals()
        for n in range(100):
            score = 0.5 - difference + n % 7 * 1e-4
            said = Said(str(n), 0, "id", {"v2": score}, {"v2": "c" * 64})
            rivals.add(said, Answered(1.0, 0.5, 1, n % days * DAY_US))
        (found,) = figures(rivals.take_changed().items(), GateSpec(minimum_rows=50, minimum_blocks=3))
        return found.verdict

    assert [verdict(-0.2), verdict(0.2), verdict(-0.2, days=2)] == ["pass", "fail", "inconclusive"]


@pytest.fixture
async def pool(postgres_dsn: str) -> AsyncIterator[Pool]:
    found = await open_pool(postgres_dsn, max_size=2)
    await migrate(found, store.SCHEMA, "tidemill_monitoring")
    yield found
    await found.close()


def checkpoint(monitor: Monitor) -> store.Checkpoint:
    added, removed = monitor.join.take_changes()
    return store.Checkpoint(
        released_until_us=0, state=state.dump(monitor), positions={}, progress={}, added=added, removed=removed,
        outcomes=[], metrics={}, decisions=[], rivals=monitor.rivals.take_changed(),
    )  # fmt: skip


async def resumed(pool: Pool) -> tuple[Monitor, int]:
    claim = await store.claim(pool, "demo")
    monitor = state.load(SPEC, claim.state)
    for kind, entry in claim.waiting:
        monitor.join.restore(kind, entry)
    return monitor, claim.generation


async def test_figures_are_added_up_over_checkpoints_and_told_over_http(pool: Pool) -> None:
    """One word waits for its label across a restart, one comes after it."""
    answers = [a_prediction(str(n), n * SECOND, 0.5) for n in range(4)]
    early = [row_of(shadowed(each, v2=0.8)) for each in answers[:2]]
    late = [row_of(shadowed(answers[2], v2=0.8)), row_of(shadowed(answers[3], "v2"))]
    labels = [label_row(str(n), DAY_US * (n % 2) + HOUR + n, 1.0) for n in range(4)]
    for step in (sorted([*map(row_of, answers), *early]), sorted(labels), late, late):
        monitor, generation = await resumed(pool)
        monitor.fold(step)
        await store.save(pool, "t", "demo", generation, checkpoint(monitor))
    monitor, _ = await resumed(pool)
    assert monitor.join.counts.shadowed_joined == 4
    task: Any = type("Task", (), {"monitor": monitor, "merge": None, "merged_us": 0})()
    app = App(api.routes(api.Reads(lambda: store.StoreQueries(pool), {"demo": task})))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        (found,) = (await client.get("/v1/pipelines/demo/shadows")).json()["items"]
        assert (await client.get("/v1/pipelines/other/shadows")).status_code == 404
    assert (found["name"], found["against"], found["rows"], found["failed"]) == ("v2", 1, 3, 1)
    assert found["log_loss"] == pytest.approx(-np.log(0.8))
    assert found["answers_log_loss"] == pytest.approx(-np.log(0.5))
    assert found["difference"]["days"] == 2
    assert found["difference"]["mean"] == pytest.approx(np.log(0.5 / 0.8))
    assert (found["verdict"], "10 in 2 are needed" in found["reason"]) == ("inconclusive", True)
