"""The only module here that speaks SQL: the merge's position, its state and its decisions move in one transaction."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from tidemill_contracts import Envelope, topic
from tidemill_contracts.events import Event, Prediction
from tidemill_engine.stats import LossSums
from tidemill_monitoring.domain.join import Closed, Entry, Kind, Label
from tidemill_monitoring.domain.rivals import Place, RivalSums, Said
from tidemill_monitoring.domain.writers import NEVER, Progress
from tidemill_runtime.outbox import enqueue
from tidemill_runtime.postgres import Connection, Fenced, Pool

SCHEMA = "monitoring"

CLAIM = """INSERT INTO monitoring.merges (pipeline, generation, released_until_us, state) VALUES ($1, 1, $2, '')
    ON CONFLICT (pipeline) DO UPDATE SET generation = monitoring.merges.generation + 1
    RETURNING generation, released_until_us, state"""
SAVE = "UPDATE monitoring.merges SET released_until_us = $3, state = $4 WHERE pipeline = $1 AND generation = $2"
WAITING = "SELECT kind, body FROM monitoring.waiting WHERE pipeline = $1 ORDER BY ordinal"
ADD = """INSERT INTO monitoring.waiting (pipeline, kind, key, at_us, body)
    SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::text[])"""
REMOVE = """DELETE FROM monitoring.waiting w USING unnest($2::text[], $3::text[]) AS r(kind, key)
    WHERE w.pipeline = $1 AND w.kind = r.kind AND w.key = r.key"""
POSITION = """INSERT INTO monitoring.consumer_offsets VALUES ($1, $2, $3, $4)
    ON CONFLICT (consumer, topic, partition) DO UPDATE SET next = $4"""
PROGRESS = """INSERT INTO monitoring.progress VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (pipeline, topic, partition) DO UPDATE SET watermark_us = $4, writers = $5"""
OUTCOMES = """INSERT INTO monitoring.outcomes (pipeline, seq, prediction_id, label_event, label_partition, label_seq)
    SELECT $1, * FROM unnest($2::bigint[], $3::uuid[], $4::text[], $5::int[], $6::bigint[]) ON CONFLICT DO NOTHING"""
METRIC = """INSERT INTO monitoring.metrics (pipeline, segment, pane_us, sums, shadows) VALUES ($1, $2, $3, $4, $5)
    ON CONFLICT (pipeline, segment, pane_us) DO UPDATE SET sums = $4, shadows = $5"""
RIVAL = """INSERT INTO monitoring.rivals AS known VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
    ON CONFLICT (pipeline, name, against, pane_us) DO UPDATE SET model = excluded.model, n = known.n + excluded.n,
    positives = known.positives + excluded.positives, failed = known.failed + excluded.failed,
    score = known.score + excluded.score, log_loss = known.log_loss + excluded.log_loss,
    squared_error = known.squared_error + excluded.squared_error,
    answers_score = known.answers_score + excluded.answers_score,
    answers_log_loss = known.answers_log_loss + excluded.answers_log_loss,
    answers_squared_error = known.answers_squared_error + excluded.answers_squared_error"""
RIVALS = "SELECT * FROM monitoring.rivals WHERE pipeline = $1 ORDER BY name, against, pane_us"
DECISIONS = """SELECT event_id, body FROM monitoring.decisions WHERE pipeline = $1 AND type = $2
    ORDER BY ordinal DESC LIMIT $3"""
METRICS = "SELECT segment, pane_us, sums, shadows FROM monitoring.metrics WHERE pipeline = $1 ORDER BY pane_us, segment"
DECISION = """INSERT INTO monitoring.decisions (pipeline, ordinal, event_id, type, at_us, body)
    SELECT $1, coalesce(max(ordinal), 0) + 1, $2, $3, $4, $5 FROM monitoring.decisions WHERE pipeline = $1"""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a new owner of a merge starts from; `generation` fences the owner before it."""

    generation: int
    released_until_us: int
    state: bytes
    positions: dict[tuple[str, int], int]
    progress: dict[tuple[str, int], Progress]
    waiting: list[tuple[Kind, Entry]]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that one commit makes durable."""

    released_until_us: int
    state: bytes
    positions: dict[tuple[str, int], int]
    progress: dict[tuple[str, int], Progress]
    added: list[tuple[Kind, Entry]]
    removed: list[tuple[Kind, str]]
    outcomes: list[tuple[int, UUID, str, int, int]]
    metrics: dict[tuple[str, int], tuple[dict[str, int], dict[str, dict[str, int]]]]
    decisions: list[tuple[UUID, int, Event, Envelope]]
    rivals: dict[Place, RivalSums] = field(default_factory=dict)


async def claim(pool: Pool, pipeline: str) -> Claim:
    """Take over a pipeline's merge: raises its generation, so that the owner before can commit nothing more."""
    async with pool.acquire() as db, db.transaction():
        row = await db.fetchrow(CLAIM, pipeline, NEVER)
        assert row is not None  # noqa: S101 - RETURNING gives a row
        rows = await db.fetch(
            "SELECT topic, partition, next FROM monitoring.consumer_offsets WHERE consumer = $1", pipeline
        )
        positions = {(r["topic"], r["partition"]): r["next"] for r in rows}
        waiting = [(r["kind"], _entry(r["kind"], r["body"])) for r in await db.fetch(WAITING, pipeline)]
        progress = await _progress(db, pipeline)
        return Claim(row["generation"], row["released_until_us"], row["state"], positions, progress, waiting)


async def _progress(db: Connection, pipeline: str) -> dict[tuple[str, int], Progress]:
    rows = await db.fetch("SELECT * FROM monitoring.progress WHERE pipeline = $1", pipeline)
    return {(r["topic"], r["partition"]): Progress(r["watermark_us"], json.loads(r["writers"])) for r in rows}


async def save(pool: Pool, prefix: str, pipeline: str, generation: int, point: Checkpoint) -> None:
    """Commit a checkpoint; raises Fenced when another owner has claimed the merge since."""
    async with _unit(pool) as db:
        status = await db.execute(SAVE, pipeline, generation, point.released_until_us, point.state)
        if status != "UPDATE 1":
            msg = f"the merge of {pipeline} has another owner"
            raise Fenced(msg)
        await db.execute(REMOVE, pipeline, [kind for kind, _ in point.removed], [key for _, key in point.removed])
        columns = [(kind, entry.key, entry.at_us, _body(entry)) for kind, entry in point.added]
        await db.execute(REMOVE, pipeline, [c[0] for c in columns], [c[1] for c in columns])
        await db.execute(ADD, pipeline, *_transposed(columns, 4))
        await db.execute(OUTCOMES, pipeline, *_transposed(point.outcomes, 5))
        await db.executemany(
            POSITION, [(pipeline, *place, following) for place, following in sorted(point.positions.items())]
        )
        await db.executemany(
            PROGRESS,
            [(pipeline, *p, found.watermark_us, json.dumps(found.writers)) for p, found in point.progress.items()],
        )
        metrics = [
            (pipeline, *place, json.dumps(sums), json.dumps(shadows))
            for place, (sums, shadows) in point.metrics.items()
        ]
        await db.executemany(METRIC, metrics)
        await db.executemany(RIVAL, [(pipeline, *place, *_columns(sums)) for place, sums in point.rivals.items()])
        for event_id, at_us, event, envelope in point.decisions:
            await db.execute(DECISION, pipeline, event_id, event.TYPE, at_us, event.model_dump_json())
            family = event.FAMILY
            assert family is not None  # noqa: S101 - every decision has a topic
            await enqueue(db, SCHEMA, topic(family, prefix=prefix), pipeline.encode(), envelope)


@dataclass(frozen=True, slots=True)
class StoreQueries:
    """What the HTTP edge reads."""

    pool: Pool

    async def decisions(self, pipeline: str, type_: str, *, limit: int = 1000) -> list[dict[str, Any]]:
        """Decisions of a type, newest first, with their event ids."""
        rows = await self.pool.fetch(DECISIONS, pipeline, type_, limit)
        return [{"event_id": str(row["event_id"]), **json.loads(row["body"])} for row in rows]

    async def metrics(self, pipeline: str) -> list[dict[str, Any]]:
        """Exact sums by pane and segment, oldest first."""
        rows = await self.pool.fetch(METRICS, pipeline)
        return [
            {
                "segment": r["segment"],
                "pane_us": r["pane_us"],
                "sums": json.loads(r["sums"]),
                "shadows": json.loads(r["shadows"]),
            }
            for r in rows
        ]

    async def rivals(self, pipeline: str) -> list[tuple[Place, RivalSums]]:
        """Exact sums of shadows and of the answers beside them, by day."""
        return [_rival(row) for row in await self.pool.fetch(RIVALS, pipeline)]

    async def outcome_of(self, prediction_id: UUID) -> dict[str, Any] | None:
        """Which label a prediction got, and where it is."""
        row = await self.pool.fetchrow("SELECT * FROM monitoring.outcomes WHERE prediction_id = $1", prediction_id)
        return None if row is None else {**dict(row), "prediction_id": str(row["prediction_id"])}


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(width)]


def _body(entry: Entry) -> str:
    return entry.model_dump_json() if isinstance(entry, Prediction) else json.dumps(asdict(entry))


def _entry(kind: Kind, body: str) -> Entry:
    if kind == "prediction":
        return Prediction.read(body.encode())
    kinds: dict[Kind, type[Label | Closed | Said]] = {"label": Label, "closed": Closed, "said": Said}
    return kinds[kind](**json.loads(body))


def _columns(sums: RivalSums) -> tuple[Any, ...]:
    own, answers = sums.own, sums.answers
    both = (own.score, own.log_loss, own.squared_error, answers.score, answers.log_loss, answers.squared_error)
    return (sums.model, own.n, own.positives, sums.failed, *map(Decimal, both))


def _rival(row: Any) -> tuple[Place, RivalSums]:  # noqa: ANN401 - asyncpg's record
    rows = (row["n"], row["positives"])
    own, answers = (
        LossSums(*rows, *(int(row[prefix + name]) for name in ("score", "log_loss", "squared_error")))
        for prefix in ("", "answers_")
    )
    return (row["name"], row["against"], row["pane_us"]), RivalSums(row["model"], own, answers, row["failed"])


@asynccontextmanager
async def _unit(pool: Pool) -> AsyncIterator[Connection]:
    async with pool.acquire() as db, db.transaction():
        yield db
