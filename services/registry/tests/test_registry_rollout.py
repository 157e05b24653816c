"""A challenger's steps, shadows and mixes: pure decisions, then the orders over HTTP on a real Postgres."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from registry_cases import DAY, a_run, a_version, applied, gate_rows, on_database

from tidemill_contracts.events import Released, ReleaseReason
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_engine.rollout import bound, point
from tidemill_registry.api.decisions import routes
from tidemill_registry.domain.champion import (
    Moment,
    NothingToRollBackError,
    UndecidableError,
    Version,
    in_charge_since,
    next_release,
    rolled_back,
)
from tidemill_registry.domain.review import Standing, follow_up, judge
from tidemill_registry.domain.rollout import canaried, mixed, promoted, shadowed, unshadowed
from tidemill_registry.store import PostgresUnit, open_unit
from tidemill_runtime.http import HttpProblem
from tidemill_runtime.postgres import Pool

FILE = """
version: 1
name: demo
sources: {clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean}}}}
request: {key: user, fields: {user: {type: string}, shop: {type: string}}, features: {a: "1", b: "2"}}
label: {source: clicks, join: user, expression: bought}
monitor: {segments: [shop]}
rollout:
  {strategy: canary, baseline_shadow: true, steps: [0.05, 0.25, 1.0], thresholds: {warn: 0.5}, sticky: shop,
   deadline: 5ms}
gate: {minimum_rows: 100, minimum_blocks: 3, segment_minimum_rows: 50}
"""
SPEC = parse_pipeline(FILE.encode())
OTHER = parse_pipeline(FILE.replace("warn: 0.5", "warn: 0.7").replace("[shop]", "[user]").encode())
HAND, BACK = ReleaseReason(kind="hand"), ReleaseReason(kind="rollback")
KEYS = [f"shop-{number}" for number in range(3000)]


def version(number: int, *features: str) -> Version:
    names = list(features or ("request.a",))
    return Version(
        number, f"{number:064x}", names, {"v": f"{number}"} if features else {}, "c" * 64, f"{number:x}" * 64
    )


def release(number: int, champion: Released | None = None, spec: PipelineSpec = SPEC) -> Released:
    return next_release(spec, champion, version(number), moment=Moment(DAY), reason=HAND)


def canary(champion: Released, number: int, share: float | None = None) -> Released:
    return canaried(SPEC, champion, version(number), share, moment=Moment(2 * DAY), reason=HAND)


def mine(found: Released) -> set[str]:
    assert found.challenger is not None
    return {key for key in KEYS if point(found.challenger.salt, key) < bound(found.challenger.share)}


def test_steps_rise_and_a_key_keeps_its_side() -> None:
    one = release(1)
    small = canary(one, 2)
    middle = canary(small, 2)
    whole = canary(middle, 2)
    assert [found.challenger and found.challenger.share for found in (small, middle, whole)] == [0.05, 0.25, 1.0]
    assert [found.epoch for found in (small, middle, whole)] == [2, 3, 4]
    assert mine(small) < mine(middle) < mine(whole) == set(KEYS)
    assert small.challenger is not None
    assert (small.challenger.by, small.challenger.deadline_ms) == ("shop", 5)
    assert small.members == one.members
    with pytest.raises(UndecidableError, match="no further step"):
        canary(whole, 2)
    other = canary(whole, 3)
    assert mine(other) != mine(small), "another challenger draws other keys"
    with pytest.raises(UndecidableError, match="is the champion"):
        canary(one, 1, 0.5)


def test_a_rollback_of_a_canary_leaves_the_champion_alone() -> None:
    one = release(1)
    two = canary(one, 2)
    three = canary(two, 2)
    back = rolled_back([one, two, three], None, at_us=3 * DAY, reason=BACK)
    assert (back.challenger, back.members, back.epoch, back.previous_epoch) == (None, one.members, 4, 3)
    assert rolled_back([one, two, three], 2, at_us=3 * DAY, reason=BACK).challenger == two.challenger


def test_a_rollback_of_a_promoted_challenger_gives_it_no_share() -> None:
    one = release(1)
    two = canary(one, 2)
    three = release(promoted(SPEC, two, None), two)
    assert (three.members[0].version, three.challenger) == (2, None)
    back = rolled_back([one, two, three], None, at_us=3 * DAY, reason=BACK)
    assert (back.members, back.challenger) == (one.members, None)
    with pytest.raises(UndecidableError, match="no challenger"):
        promoted(SPEC, three, None)


def test_everything_of_a_release_reverts_with_a_rollback() -> None:
    first = mixed(SPEC, release(1), [(version(1), 0.25), (version(2), 0.75)], moment=Moment(DAY), reason=HAND)
    first = shadowed(first, version(7), moment=Moment(DAY), reason=HAND)
    own = version(3, "request.b", "request.a")
    second = next_release(OTHER, first, own, moment=Moment(2 * DAY), reason=HAND)
    moved = {"members", "views", "features", "thresholds", "reference", "segments", "policy", "shadows"}
    assert {name for name in moved if getattr(first, name) == getattr(second, name)} == set()
    back = rolled_back([release(1), first, second], None, at_us=3 * DAY, reason=BACK)
    decided = {"epoch", "previous_epoch", "at_us", "effective_at_us", "reason"}
    assert back.model_dump(exclude=decided) == first.model_dump(exclude=decided)
    assert [member.weight for member in back.members] == [0.25, 0.75]
    assert (back.thresholds, back.segments, back.reference) == ({"warn": 0.5}, ["shop"], "2" * 64)


def test_a_mix_is_in_the_order_of_versions_and_reads_one_set_of_features() -> None:
    parts = [(version(5), 0.3), (version(3), 0.7)]
    made = mixed(SPEC, release(1), parts, moment=Moment(DAY), reason=HAND)
    assert [(member.name, member.version, member.weight) for member in made.members] == [("v3", 3, 0.7), ("v5", 5, 0.3)]
    with pytest.raises(UndecidableError, match="other features"):
        mixed(SPEC, release(1), [*parts, (version(6, "request.b"), 0.1)], moment=Moment(DAY), reason=HAND)


def test_shadows_come_go_and_keep_their_own_features() -> None:
    one = release(1)
    two = shadowed(one, version(2), moment=Moment(DAY), reason=HAND)
    three = shadowed(two, version(3, "request.b"), moment=Moment(DAY), reason=HAND)
    assert [(s.name, s.features) for s in three.shadows] == [("baseline", None), ("v2", None), ("v3", ["request.b"])]
    with pytest.raises(UndecidableError, match="already"):
        shadowed(three, version(2), moment=Moment(DAY), reason=HAND)
    other = next_release(SPEC, three, version(9, "request.b"), moment=Moment(DAY), reason=HAND)
    assert [(s.name, s.features) for s in other.shadows] == [
        ("baseline", ["request.a"]), ("v2", ["request.a"]), ("v3", ["request.b"]),
    ]  # fmt: skip
    assert [s.name for s in release(2, three).shadows] == ["baseline", "v3"], "who answers needs no shadow"
    assert [s.name for s in unshadowed(three, 2, moment=Moment(DAY), reason=HAND).shadows] == ["baseline", "v3"]
    with pytest.raises(UndecidableError, match="not a shadow"):
        unshadowed(three, 8, moment=Moment(DAY), reason=HAND)


def test_a_pass_begins_a_canary_and_a_step_does_not_spoil_a_run_under_way() -> None:
    one = release(1)
    two = canary(one, 2)
    assert in_charge_since([one, two]) == 1
    run = a_run(3, champion_epoch=1)
    standing = Standing(SPEC, two, frozen=False, since=1)
    decided = judge(run, a_version(3), gate_rows(0.8, 0.2), standing)
    assert decided.verdict == "pass"
    status, made = follow_up(run, a_version(3), decided, standing)
    assert made is not None
    assert made.challenger is not None
    assert (status, made.challenger.version, made.challenger.share, made.members) == ("canary", 3, 0.05, one.members)
    first = follow_up(run, a_version(3), decided, Standing(SPEC, None, frozen=False))
    assert first[0] == "released", "the first model has nobody to stand beside"


class OneDatabase:
    """A registry over a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[PostgresUnit]:
        async with open_unit(self._pool, "tidemill") as unit:
            yield unit


class Request:
    """As much of a request as the routes look at."""

    def __init__(self) -> None:
        self.path_params = {"pipeline": "demo"}


def test_orders_move_the_pointer_with_their_event_in_one_transaction(
    postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(pool: Pool) -> None:
        await applied(pool, SPEC)
        async with open_unit(pool, "tidemill") as unit:
            for number in (1, 2, 3):
                await unit.register(a_run(number), features=["request.a"], views={}, spec="c" * 64)
        table = {route.path.rpartition("/")[2]: route.endpoint for route in routes(cast("Any", OneDatabase(pool)))}

        async def order(what: str, **body: object) -> Released:
            async def read(_request: Any, kind: Any) -> Any:  # noqa: ANN401 - the order
                return kind(**{"at": "2013-01-01T00:00:00Z", **body})

            monkeypatch.setattr("tidemill_registry.api.decisions.read_model", read)
            return cast("Released", await table[what](cast("Any", Request())))

        with pytest.raises(HttpProblem, match="promote a version first"):
            await order("canary", version=2, share=0.1)
        assert (await order("promote", version=1)).reference == a_run(1).reference
        assert (await order("canary", version=2)).epoch == 2
        with pytest.raises(HttpProblem, match="another release came first"):
            await order("canary", version=2, expected_epoch=1)
        with pytest.raises(HttpProblem, match="no version 9"):
            await order("shadow", version=9)
        assert [s.name for s in (await order("shadow", version=3)).shadows] == ["baseline", "v3"]
        assert (await order("promote", expected_epoch=3)).members[0].version == 2
        assert (await order("rollback")).members[0].version == 1
        await order("mix", members=[{"version": 1, "weight": 0.5}, {"version": 2, "weight": 0.5}])
        assert len((await order("rollback")).members) == 1
        with pytest.raises(HttpProblem, match="not a shadow"):
            await order("shadow", version=2, remove=True)
        rows = await pool.fetch("SELECT epoch, body FROM registry.releases ORDER BY epoch")
        assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6, 7]
        events = await pool.fetchval("SELECT count(*) FROM registry.outbox WHERE topic LIKE '%releases%'")
        assert events == len(rows)
        assert json.loads(rows[1]["body"])["challenger"]["share"] == 0.05

    on_database(postgres_dsn, work)


def test_without_anything_earlier_there_is_nothing_to_go_back_to() -> None:
    for history in ([], [release(1)]):
        with pytest.raises(NothingToRollBackError):
            rolled_back(history, None, at_us=DAY, reason=BACK)
