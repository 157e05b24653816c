"""The only module here that speaks SQL. Rows, lineage, audit and outbox of one decision are one transaction."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tidemill_contracts import Envelope, derived_id, topic
from tidemill_contracts.events import (
    Event,
    GateDecided,
    KeptFile,
    PipelineApplied,
    Released,
    RunFinished,
    VersionRegistered,
    encode,
)
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_registry.domain import audit
from tidemill_registry.domain.champion import EpochMovedError, Version, in_charge_since, release_id
from tidemill_registry.domain.kept import kept_files
from tidemill_registry.domain.review import Standing
from tidemill_runtime.outbox import enqueue
from tidemill_runtime.postgres import Connection, Pool
from tidemill_runtime.telemetry import current_traceparent, span

SCHEMA = "registry"
SOURCE = "/services/registry"

PIPELINE = "SELECT spec, revision, digest, frozen, epoch FROM registry.pipelines WHERE pipeline = $1"
APPLY = """INSERT INTO registry.pipelines (pipeline, revision, digest, spec) VALUES ($1, 1, $2, $3)
    ON CONFLICT (pipeline) DO UPDATE SET revision = registry.pipelines.revision + 1, digest = $2, spec = $3,
    applied_at = now() RETURNING revision"""
RELEASED = "SELECT body->>'spec' AS file FROM registry.releases WHERE pipeline = $1 ORDER BY epoch"
FILES = "SELECT digest, spec FROM registry.specs WHERE digest = ANY($1) ORDER BY digest"
SPEC = "INSERT INTO registry.specs VALUES ($1, $2, $3) ON CONFLICT DO NOTHING"
VERSION = """INSERT INTO registry.versions (pipeline, version, model, manifest, run_id, at_us, features, views, spec,
    reference) SELECT $1, coalesce(max(version), 0) + 1, $2, $3, $4, $5, $6, $7, $8, $9 FROM registry.versions
    WHERE pipeline = $1 ON CONFLICT (pipeline, model) DO NOTHING RETURNING version"""
VERSIONS = """SELECT version, model, manifest, reference, run_id, at_us FROM registry.versions
    WHERE pipeline = $1 ORDER BY version"""
ONE_VERSION = """SELECT version, model, features, views, spec, reference FROM registry.versions
    WHERE pipeline = $1 AND version = $2"""
KNOWN_VERSION = "SELECT version FROM registry.versions WHERE pipeline = $1 AND model = $2"
MOVE = "UPDATE registry.pipelines SET epoch = $3 WHERE pipeline = $1 AND epoch = $2"
RELEASE = """INSERT INTO registry.releases (pipeline, epoch, event_id, at_us, effective_at_us, body)
    VALUES ($1, $2, $3, $4, $5, $6)"""
REQUEST = """INSERT INTO registry.requests (request_id, pipeline, run_id, status, epoch, version, detail)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (request_id) DO NOTHING"""
LINEAGE = "INSERT INTO registry.lineage VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING"
LAST_LINK = "SELECT seq, event_id, type, pipeline, body, previous, hash FROM registry.audit ORDER BY seq DESC LIMIT 1"
LINK = """INSERT INTO registry.audit (seq, event_id, type, pipeline, body, previous, hash)
    VALUES ($1, $2, $3, $4, $5, $6, $7)"""
ANCESTORS = """WITH RECURSIVE up AS (
    SELECT child_kind, child, parent_kind, parent, 1 AS distance
    FROM registry.lineage WHERE child_kind = $1 AND child = $2
    UNION SELECT l.child_kind, l.child, l.parent_kind, l.parent, up.distance + 1
    FROM registry.lineage l JOIN up ON l.child_kind = up.parent_kind AND l.child = up.parent WHERE up.distance < 16)
    SELECT child_kind, child, parent_kind, parent FROM up ORDER BY distance, parent_kind, parent"""
AUDIT_LOCK = "SELECT pg_advisory_xact_lock(hashtext('registry.audit'))"
PIPELINE_LOCK = "SELECT pg_advisory_xact_lock(hashtext('registry.' || $1))"


@dataclass(frozen=True, slots=True)
class PipelineRow:
    """A pipeline as the registry holds it."""

    spec: PipelineSpec
    revision: int
    digest: str
    frozen: bool
    epoch: int


@dataclass(frozen=True, slots=True)
class PostgresUnit:
    """State, inbox, audit and outbox of one decision."""

    db: Connection
    prefix: str

    async def lock(self, pipeline: str) -> None:
        """One decision at a time per pipeline."""
        await self.db.execute(PIPELINE_LOCK, pipeline)

    async def pipeline(self, name: str) -> PipelineRow | None:
        """The pipeline's current row."""
        row = await self.db.fetchrow(PIPELINE, name)
        if row is None:
            return None
        spec = PipelineSpec.model_validate_json(row["spec"])
        return PipelineRow(spec, row["revision"], row["digest"], row["frozen"], row["epoch"])

    async def apply(self, spec: PipelineSpec) -> PipelineApplied:
        """Save a definition, announce it (again where it is the current one) and return the event."""
        body, digest = spec.model_dump_json(), spec.digest()
        revision = await self.db.fetchval(APPLY, spec.name, digest, body)
        await self.db.execute(SPEC, digest, spec.name, body)
        kept = await files(self.db, kept_files(await self._files(spec.name), digest))
        event = PipelineApplied(pipeline=spec.name, revision=revision, digest=digest, spec=json.loads(body), kept=kept)
        await self.announce(event, spec.name, derived_id("pipeline", spec.name, revision), 0)
        return event

    async def file(self, digest: str) -> PipelineSpec | None:
        """A definition that was accepted once."""
        body = await self.db.fetchval("SELECT spec FROM registry.specs WHERE digest = $1", digest)
        return None if body is None else PipelineSpec.model_validate_json(body)

    async def _files(self, pipeline: str) -> list[str]:
        return [row["file"] for row in await self.db.fetch(RELEASED, pipeline)]

    async def _keep_files(self, release: Released, before: Sequence[str]) -> None:
        """Announce the pipeline's file again where the release changes which earlier ones stay in use."""
        row = await self.db.fetchrow(PIPELINE, release.pipeline)
        assert row is not None  # noqa: S101 - the epoch of this row has just moved
        kept = await files(self.db, kept_files([*before, release.spec], row["digest"]))
        if kept != await files(self.db, kept_files(before, row["digest"])):
            event = PipelineApplied(
                pipeline=release.pipeline, revision=row["revision"], digest=row["digest"], spec=json.loads(row["spec"]),
                kept=kept,
            )  # fmt: skip
            event_id = derived_id("pipeline", release.pipeline, row["revision"], "kept", release.epoch)
            await self.announce(event, release.pipeline, event_id, release.at_us)

    async def standing(self, pipeline: str) -> Standing | None:
        """How a pipeline stands: definition, champion, freeze; None for an unknown one."""
        row = await self.pipeline(pipeline)
        if row is None:
            return None
        releases = await self.releases(pipeline)
        return Standing(row.spec, releases[-1] if releases else None, row.frozen, in_charge_since(releases))

    async def releases(self, pipeline: str) -> list[Released]:
        """All releases of a pipeline, by epoch."""
        rows = await self.db.fetch("SELECT body FROM registry.releases WHERE pipeline = $1 ORDER BY epoch", pipeline)
        return [Released.read(row["body"].encode()) for row in rows]

    async def version(self, pipeline: str, number: int) -> Version | None:
        """A registered version."""
        row = await self.db.fetchrow(ONE_VERSION, pipeline, number)
        if row is None:
            return None
        features, views = json.loads(row["features"]), json.loads(row["views"])
        return Version(row["version"], row["model"], features, views, row["spec"], row["reference"])

    async def register(self, run: RunFinished, *, features: list[str], views: dict[str, str], spec: str) -> Version:
        """Give the run's model the pipeline's next version; the same bytes again keep the version they have."""
        number = await self.db.fetchval(
            VERSION, run.pipeline, run.model, run.manifest, run.run_id, run.at_us, json.dumps(features),
            json.dumps(views), spec, run.reference,
        )  # fmt: skip
        if number is None:
            number = await self.db.fetchval(KNOWN_VERSION, run.pipeline, run.model)
        else:
            event = VersionRegistered(
                pipeline=run.pipeline, version=number, model=str(run.model), manifest=str(run.manifest),
                reference=run.reference, run_id=run.run_id, at_us=run.at_us,
            )  # fmt: skip
            event_id = derived_id("version", run.pipeline, number)
            await self.announce(event, run.pipeline, event_id, run.at_us, cause=run.run_id)
        await self._lineage(run)
        known = await self.version(run.pipeline, number)
        assert known is not None  # noqa: S101 - it is registered now, or was before
        return known

    async def save_gate(self, decision: GateDecided) -> None:
        """Record and announce the gate's verdict."""
        event_id = derived_id("gate", str(decision.run_id))
        await self.db.execute(
            "INSERT INTO registry.gates VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            event_id, decision.pipeline, decision.version, decision.verdict, decision.model_dump_json(),
        )  # fmt: skip
        await self.announce(decision, decision.pipeline, event_id, decision.at_us, cause=decision.run_id)

    async def release(self, release: Released) -> None:
        """Move the champion pointer by compare-and-set on the epoch; raises EpochMovedError if another came first."""
        if await self.db.execute(MOVE, release.pipeline, release.previous_epoch, release.epoch) != "UPDATE 1":
            raise EpochMovedError
        event_id, before = UUID(release_id(release)), await self._files(release.pipeline)
        with span("release", attributes={"tidemill.pipeline": release.pipeline, "tidemill.epoch": release.epoch}):
            await self.db.execute(
                RELEASE, release.pipeline, release.epoch, event_id, release.at_us, release.effective_at_us,
                release.model_dump_json(),
            )  # fmt: skip
            await self._keep_files(release, before)
            await self.announce(release, release.pipeline, event_id, release.at_us, cause=release.reason.event_id)

    async def close_request(
        self, run: RunFinished, status: str, *, epoch: int | None, version: int | None, detail: str = ""
    ) -> None:
        """Record what became of the training request."""
        await self.db.execute(REQUEST, run.request_id, run.pipeline, run.run_id, status, epoch, version, detail)

    async def freeze(self, pipeline: str, *, frozen: bool) -> None:
        """Stop or resume automatic releases; the decision is in the audit chain."""
        await self.db.execute("UPDATE registry.pipelines SET frozen = $2 WHERE pipeline = $1", pipeline, frozen)
        event_id = derived_id("freeze", pipeline, str(frozen))
        await self._audit(event_id, "tidemill.freeze.v1", pipeline, {"frozen": frozen})

    async def _lineage(self, run: RunFinished) -> None:
        edges = [
            ("model", str(run.model), "run", str(run.run_id)),
            ("run", str(run.run_id), "manifest", str(run.manifest)),
            ("run", str(run.run_id), "request", str(run.request_id)),
        ]
        if run.cause.event_id is not None:
            edges.append(("request", str(run.request_id), run.cause.kind, str(run.cause.event_id)))
        await self.db.executemany(LINEAGE, [(*edge, run.pipeline) for edge in edges])

    async def announce(
        self, event: Event, key: str, event_id: UUID, time_us: int, *, cause: UUID | None = None
    ) -> None:
        """Audit row and outbox row of a decision."""
        await self._audit(event_id, event.TYPE, key, json.loads(event.model_dump_json()))
        family = event.FAMILY
        assert family is not None  # noqa: S101 - every announced event has a topic
        envelope: Envelope = encode(
            event, id=str(event_id), source=SOURCE, time_us=time_us, subject=key,
            causation=str(cause) if cause else None, traceparent=current_traceparent(),
        )  # fmt: skip
        await enqueue(self.db, SCHEMA, topic(family, prefix=self.prefix), key.encode(), envelope)

    async def _audit(self, event_id: UUID, type_: str, pipeline: str, body: Any) -> None:  # noqa: ANN401 - any JSON value
        await self.db.execute(AUDIT_LOCK)
        row = await self.db.fetchrow(LAST_LINK)
        last = audit.Link(row["seq"], str(row["event_id"]), *list(row.values())[2:]) if row is not None else None
        link = audit.append(last, event_id=str(event_id), type_=type_, pipeline=pipeline, body=body)
        await self.db.execute(LINK, link.seq, event_id, link.type, link.pipeline, link.body, link.previous, link.hash)


async def files(db: Connection | Pool, digests: Sequence[str]) -> list[KeptFile]:
    """Definitions by digest."""
    return [KeptFile(digest=r["digest"], spec=json.loads(r["spec"])) for r in await db.fetch(FILES, list(digests))]


@asynccontextmanager
async def open_unit(pool: Pool, prefix: str) -> AsyncIterator[PostgresUnit]:
    """One transaction."""
    async with pool.acquire() as db, db.transaction():
        yield PostgresUnit(db, prefix)


@dataclass(frozen=True, slots=True)
class StoreQueries:
    """What the HTTP edge reads."""

    pool: Pool

    async def audit_links(self) -> Sequence[audit.Link]:
        """The whole audit chain in order."""
        rows = await self.pool.fetch(
            "SELECT seq, event_id, type, pipeline, body, previous, hash FROM registry.audit ORDER BY seq"
        )
        return [audit.Link(row["seq"], str(row["event_id"]), *list(row.values())[2:]) for row in rows]

    async def releases(self, pipeline: str) -> list[dict[str, Any]]:
        """Releases by epoch, with their event ids and when they were made."""
        rows = await self.pool.fetch(
            "SELECT event_id, body, released_at FROM registry.releases WHERE pipeline = $1 ORDER BY epoch", pipeline
        )
        return [
            {**json.loads(r["body"]), "event_id": str(r["event_id"]), "released_at": r["released_at"].isoformat()}
            for r in rows
        ]

    async def champion(self, pipeline: str, at_us: int | None) -> dict[str, Any] | None:
        """The release that answers, or that answered at an event time."""
        releases = await self.releases(pipeline)
        started = [r for r in releases if at_us is None or (r["effective_at_us"] or r["at_us"]) <= at_us]
        return started[-1] if started else None

    async def versions(self, pipeline: str) -> list[dict[str, Any]]:
        """Versions, oldest first."""
        return [{**dict(row), "run_id": str(row["run_id"])} for row in await self.pool.fetch(VERSIONS, pipeline)]

    async def gates(self, pipeline: str) -> list[dict[str, Any]]:
        """Verdicts, oldest first."""
        rows = await self.pool.fetch("SELECT body FROM registry.gates WHERE pipeline = $1 ORDER BY version", pipeline)
        return [json.loads(row["body"]) for row in rows]

    async def pipeline(self, name: str) -> dict[str, Any] | None:
        """A pipeline's row."""
        row = await self.pool.fetchrow(PIPELINE, name)
        if row is None:
            return None
        used = [r["file"] for r in await self.pool.fetch(RELEASED, name)]
        kept = await files(self.pool, kept_files(used, row["digest"]))
        return {**dict(row), "spec": json.loads(row["spec"]), "kept": kept}

    async def request(self, request_id: UUID) -> dict[str, Any] | None:
        """What became of a training request."""
        row = await self.pool.fetchrow("SELECT * FROM registry.requests WHERE request_id = $1", request_id)
        return None if row is None else dict(row) | {key: str(row[key]) for key in ("request_id", "run_id")}

    async def lineage(self, kind: str, name: str) -> list[dict[str, str]]:
        """All ancestors of something, as edges from child to parent, nearest first."""
        return [dict(row) for row in await self.pool.fetch(ANCESTORS, kind, name)]
