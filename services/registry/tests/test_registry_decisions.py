"""Versions, verdicts, releases and the audit chain: pure decisions, then the same on a real Postgres."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from registry_cases import DAY, a_run, a_version, applied, gate_rows, on_database

from tidemill_contracts.events import (
    REFERENCE_BYTES,
    GateDecided,
    Released,
    ReleaseReason,
    RunFinished,
    TrainingManifest,
)
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_engine.stats import GateRows
from tidemill_registry.artifacts import StoredEvidence
from tidemill_registry.domain import audit
from tidemill_registry.domain.champion import (
    EpochMovedError,
    Moment,
    NothingToRollBackError,
    next_release,
    rolled_back,
)
from tidemill_registry.domain.review import Standing, follow_up, judge
from tidemill_registry.handlers import on_run_finished
from tidemill_registry.store import PostgresUnit, StoreQueries, open_unit
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Never
from tidemill_runtime.postgres import Pool

PIPELINE = b"""
version: 1
name: demo
sources: {clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean}}}}
request: {key: user, fields: {user: {type: string}}, features: {a: "1"}}
label: {source: clicks, join: user, expression: bought}
rollout: {baseline_shadow: true}
gate: {minimum_rows: 100, minimum_blocks: 3, segment_minimum_rows: 50}
"""


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    """The smallest pipeline."""
    return parse_pipeline(PIPELINE)


def first_release(spec: PipelineSpec) -> Released:
    """Epoch 1."""
    return next_release(spec, None, a_version(1), moment=Moment(DAY), reason=ReleaseReason(kind="first"))


def test_epochs_rise_by_one_and_the_first_model_stays_as_shadow(spec: PipelineSpec) -> None:
    """The baseline shadow is the first released model, whoever is champion."""
    one = first_release(spec)
    two = next_release(spec, one, a_version(2), moment=Moment(2 * DAY), reason=ReleaseReason(kind="gate"))
    assert (one.epoch, two.epoch, two.previous_epoch) == (1, 2, 1)
    assert [shadow.model for shadow in two.shadows] == [one.members[0].model]


def test_a_rollback_is_a_new_epoch_with_the_content_of_an_earlier_one(spec: PipelineSpec) -> None:
    """Model, views and shadows go back together; time and epochs do not."""
    one = first_release(spec)
    two = next_release(spec, one, a_version(2), moment=Moment(2 * DAY), reason=ReleaseReason(kind="gate"))
    back = rolled_back([one, two], None, at_us=3 * DAY, reason=ReleaseReason(kind="rollback"))
    assert (back.epoch, back.previous_epoch, back.members) == (3, 2, one.members)
    with pytest.raises(NothingToRollBackError):
        rolled_back([one], None, at_us=3 * DAY, reason=ReleaseReason(kind="rollback"))


@pytest.mark.parametrize(
    ("candidate", "champion", "verdict", "status"),
    [(0.8, 0.2, "pass", "released"), (0.2, 0.8, "fail", "rejected"), (0.8, None, "pass", "released")],
)
def test_only_a_pass_releases(
    spec: PipelineSpec, candidate: float, champion: float | None, verdict: str, status: str
) -> None:
    """A worse candidate is rejected; a first one must beat the base rate."""
    standing = Standing(spec, None if champion is None else first_release(spec), frozen=False)
    run = a_run(2, champion_epoch=0 if champion is None else 1)
    decided = judge(run, a_version(2), gate_rows(candidate, champion), standing)
    assert decided.verdict == verdict
    assert follow_up(run, a_version(2), decided, standing)[0] == status


def test_a_run_compared_with_another_champion_is_inconclusive(spec: PipelineSpec) -> None:
    """The champion moved while the run was under way: nothing is released on old evidence."""
    standing = Standing(spec, first_release(spec), frozen=False)
    decided = judge(a_run(2, champion_epoch=7), a_version(2), gate_rows(0.8, 0.2), standing)
    assert decided.verdict == "inconclusive"


def test_a_frozen_pipeline_only_suggests(spec: PipelineSpec) -> None:
    """The verdict is recorded, the champion stays."""
    standing = Standing(spec, first_release(spec), frozen=True)
    run = a_run(2, champion_epoch=1)
    decided = judge(run, a_version(2), gate_rows(0.8, 0.2), standing)
    assert follow_up(run, a_version(2), decided, standing) == ("suggested", None)


def test_the_audit_chain_names_the_first_row_that_was_touched() -> None:
    """A changed body, a dropped row and an exchanged pair are all found."""
    links: list[audit.Link] = []
    for i in range(5):
        links.append(
            audit.append(links[-1] if links else None, event_id=str(i), type_="t", pipeline="p", body={"n": i})
        )
    assert audit.verify(links).ok
    changed = [*links[:2], replace(links[2], body='{"n":9}'), *links[3:]]
    assert audit.verify(changed).broken_at == 3
    assert audit.verify([*links[:2], *links[3:]]).broken_at == 3
    assert audit.verify([links[1], links[0], *links[2:]]).broken_at == 1


class Stored:
    """Evidence that is always there and always good."""

    async def manifest(self, digest: str) -> TrainingManifest:
        return TrainingManifest(
            pipeline="demo", spec="c" * 64, policy="c" * 64, trainer="lightgbm", parameters={}, window="all", seed=7,
            as_of_us=0, views={}, features=["request.a"], rows={}, data=digest, code=digest, lock=digest,
        )  # fmt: skip

    async def check_reference(self, digest: str, model: str, features: list[str]) -> None: ...

    async def gate_rows(self, digest: str, base_rate: float) -> GateRows:
        del digest, base_rate
        return gate_rows(0.8)

    async def check_model(self, digest: str) -> None:
        del digest


async def handle(unit: PostgresUnit, run: RunFinished) -> None:
    """What the control subscriber does inside its transaction."""
    await on_run_finished(Stored())(run, unit)


def test_a_run_is_registered_judged_and_released_in_one_transaction(postgres_dsn: str, spec: PipelineSpec) -> None:
    """Rows, audit and outbox agree; the same model again keeps its version and its verdict."""

    async def work(pool: Pool) -> None:
        await applied(pool, spec)
        async with open_unit(pool, "tidemill") as unit:
            await handle(unit, a_run(1))
        queries = StoreQueries(pool)
        assert [row["version"] for row in await queries.versions("demo")] == [1]
        assert [row["epoch"] for row in await queries.releases("demo")] == [1]
        outcome = await queries.request(a_run(1).request_id)
        assert outcome is not None
        assert (outcome["status"], outcome["epoch"]) == ("released", 1)
        types = [row["topic"] for row in await pool.fetch("SELECT topic FROM registry.outbox ORDER BY id")]
        assert [name.split(".")[1] for name in types] == ["pipelines", "versions", "versions", "releases"]
        assert audit.verify(await queries.audit_links()).ok
        ancestors = await queries.lineage("model", f"{1:064x}")
        assert {edge["parent_kind"] for edge in ancestors} == {"run", "manifest", "request"}

    on_database(postgres_dsn, work)


def test_a_crash_before_the_commit_leaves_nothing(postgres_dsn: str, spec: PipelineSpec) -> None:
    """No version without its release, no release without its event."""

    async def work(pool: Pool) -> None:
        await applied(pool, spec)

        async def crash() -> None:
            async with open_unit(pool, "tidemill") as unit:
                await handle(unit, a_run(1))
                raise ConnectionResetError

        with pytest.raises(ConnectionResetError):
            await crash()
        queries = StoreQueries(pool)
        assert await queries.versions("demo") == []
        assert await queries.releases("demo") == []

    on_database(postgres_dsn, work)


def test_of_fifty_promotions_at_once_each_epoch_has_one_winner(postgres_dsn: str, spec: PipelineSpec) -> None:
    """Epochs are dense, and a promotion that expected the epoch before is refused."""

    async def promote(pool: Pool, number: int, standing: Released) -> bool:
        release = next_release(
            spec, standing, a_version(number), moment=Moment(number), reason=ReleaseReason(kind="hand")
        )
        try:
            async with open_unit(pool, "tidemill") as unit:
                await unit.release(release)
        except EpochMovedError:
            return False
        return True

    async def work(pool: Pool) -> None:
        await applied(pool, spec)
        one = first_release(spec)
        async with open_unit(pool, "tidemill") as unit:
            await unit.release(one)
        won = await asyncio.gather(*(promote(pool, number, one) for number in range(2, 52)))
        assert won.count(True) == 1
        assert [row["epoch"] for row in await StoreQueries(pool).releases("demo")] == [1, 2]

    on_database(postgres_dsn, work)


def test_versions_and_audit_rows_cannot_be_changed(postgres_dsn: str, spec: PipelineSpec) -> None:
    """The database itself refuses, and a row changed behind its back is named."""

    async def work(pool: Pool) -> None:
        await applied(pool, spec)
        async with open_unit(pool, "tidemill") as unit:
            await handle(unit, a_run(1))
        for statement in ("UPDATE registry.versions SET model = 'x'", "DELETE FROM registry.audit"):
            with pytest.raises(Exception, match="never change"):
                await pool.execute(statement)
        await pool.execute("ALTER TABLE registry.audit DISABLE TRIGGER ALL")
        await pool.execute("UPDATE registry.audit SET body = '{}' WHERE seq = 3")
        assert audit.verify(await StoreQueries(pool).audit_links()).broken_at == 3

    on_database(postgres_dsn, work)


def test_a_gate_decision_names_what_it_rests_on(spec: PipelineSpec) -> None:
    """The evidence behind the verdict is part of the event."""
    standing = Standing(spec, first_release(spec), frozen=False)
    decided: GateDecided = judge(a_run(2, champion_epoch=1), a_version(2), gate_rows(0.8, 0.2), standing)
    names = {check.name for check in decided.checks}
    assert {"parity", "sample", "no_harm", "point_estimate", "evidence.difference"} <= names


def a_reference(**changes: object) -> bytes:
    """Of the model with the digest `1...`, which reads one feature."""
    column = {"edges": [0.5], "discrete": False, "counts": [1, 2, 0]}
    body: dict[str, object] = {
        "format": "tidemill.drift-reference.v1", "model": "1" * 64, "rows": 3, "score_rows": "gate",
        "columns": [{"name": "request.a", **column}, {"name": "score", **column}],
    }  # fmt: skip
    return json.dumps(body | changes).encode()


@pytest.mark.parametrize(("raw", "refusal"), [
    (a_reference(), None), (a_reference(model="2" * 64), "of another model"),
    (a_reference(columns=[]), "is refused"), (b"{}", "is refused"), (bytes(REFERENCE_BYTES + 1), "more than"),
    (a_reference().replace(b"request.a", b"request.b"), "of another model"),
], ids=["good", "model", "columns", "empty", "large", "features"])  # fmt: skip
def test_a_run_brings_the_reference_of_its_own_model(tmp_path: Path, raw: bytes, refusal: str | None) -> None:
    store = Artifacts(tmp_path)
    check = StoredEvidence(store).check_reference(store.put(raw), "1" * 64, ["request.a"])
    if refusal is None:
        asyncio.run(check)
        return
    with pytest.raises(Never, match=refusal):
        asyncio.run(check)


def test_a_version_of_before_has_no_reference_and_neither_has_its_release(postgres_dsn: str) -> None:
    """Also when the same bytes are trained again, now with one: versions never change."""

    async def work(pool: Pool) -> None:
        async with open_unit(pool, "t") as unit:
            about: dict[str, Any] = {"features": ["request.a"], "views": {}, "spec": "c" * 64}
            old = await unit.register(a_run(1, reference=None), **about)
            again = await unit.register(a_run(3, model=old.model), **about)
            new = await unit.register(a_run(2), **about)
        assert [each.reference for each in (old, again, new)] == [None, None, "f" * 64]
        assert (old, old.version, new.version) == (again, 1, 2)
        kept = await StoreQueries(pool).versions("demo")
        assert [each["reference"] for each in kept] == [None, "f" * 64]

    on_database(postgres_dsn, work)
