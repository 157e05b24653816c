"""The only module that speaks SQL: known ids, partitions and their counters, replays of dead letters."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple

import asyncpg

from tidemill_contracts import Envelope
from tidemill_ingestion.domain.decide import Batch, Counts, Known, Position
from tidemill_ingestion.domain.quality import Breach, Judged
from tidemill_ingestion.domain.stored import ClaimedMeanwhile, EventRow, Opened, PartitionRow, Quarantined
from tidemill_runtime.errors import Later
from tidemill_runtime.outbox import enqueue
from tidemill_runtime.postgres import Fenced, Pool, migrate, open_pool

SCHEMA = "ingestion"
POOL = 8
"""Connections: partitions of one source decide at the same time, and requests look ids up beside them."""
FENCED, CLAIMED = "TM001", "TM002"
_TRANSIENT = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
_KNOWN = """SELECT id, digest, outcome, partition, raw_offset, seq FROM ingestion.known_events
    WHERE source = $1 AND id = ANY ($2::text[])"""
_OPEN = "INSERT INTO ingestion.partitions (source, partition) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_PARTITION = """SELECT next, seq, watermark_us, newest_us, emitted FROM ingestion.partitions
    WHERE source = $1 AND partition = $2"""
_DECIDE = "SELECT ingestion.decide($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"
_DECIDE_UNSEEN = "SELECT ingestion.decide_unseen($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"
_JUDGE = "SELECT ingestion.judge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::jsonb)"
_QUALITY = "SELECT state FROM ingestion.quality WHERE source = $1 AND partition = $2"
_QUARANTINE = """SELECT id, source, partition, field, rule, value, bound, row_count, from_us, to_us, ranges::text,
    released_at IS NOT NULL AS is_released, detail FROM ingestion.quarantine
    WHERE ($1::text IS NULL OR source = $1) AND ($2 OR released_at IS NULL)
    ORDER BY from_us DESC, source, partition, field, rule LIMIT $3"""
_QUARANTINED = _QUARANTINE.partition("WHERE")[0] + "WHERE id = $1::uuid"
_RELEASE = """UPDATE ingestion.quarantine SET released_at = now(), detail = $2
    WHERE id = $1::uuid AND released_at IS NULL RETURNING id"""
_EMITTED = "UPDATE ingestion.partitions SET emitted = $3 WHERE source = $1 AND partition = $2 AND next = $3"
_STATUS = """SELECT source, partition, next, seq, watermark_us, newest_us, applied, late, future, dead_lettered,
    duplicates, conflicts, refused, timers, records FROM ingestion.partitions ORDER BY source, partition"""
_EVENT = """SELECT outcome, partition, raw_offset, seq, event_us, conflicts FROM ingestion.known_events
    WHERE source = $1 AND id = $2"""
_WATERMARKS = "SELECT partition, watermark_us FROM ingestion.partitions WHERE source = $1"
_REPLAYED = """SELECT partition, "offset" FROM ingestion.replays WHERE topic = $1
    AND (partition, "offset") IN (SELECT * FROM unnest($2::int[], $3::bigint[]))"""
_NOTE = """INSERT INTO ingestion.replays AS r (topic, partition, "offset")
    SELECT DISTINCT $1::text, p, o FROM unnest($2::int[], $3::bigint[]) AS u (p, o)
    ON CONFLICT (topic, partition, "offset") DO UPDATE SET times = r.times + 1, at = now()"""
_PRUNE = "DELETE FROM ingestion.known_events WHERE source = $1 AND partition = $2 AND event_us < $3"


class Store:
    """Rows of the schema `ingestion`. Everything that fails for a reason that may pass raises Later."""

    def __init__(self) -> None:
        self._pool: Pool | None = None

    async def connect(self, dsn: str) -> None:
        """Open the pool and bring the schema up to date; until then every method raises Later."""
        pool = await open_pool(dsn, min_size=2, max_size=POOL, keep_sessions=True)
        await migrate(pool, SCHEMA, "tidemill_ingestion")
        self._pool = pool

    async def close(self) -> None:
        """Close all connections."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def known(self, source: str, ids: Sequence[str]) -> dict[str, Known]:
        """What is stored of these ids."""
        rows = await self._fetch(_KNOWN, source, ids)
        return {
            row["id"]: Known(row["digest"], row["outcome"], row["partition"], row["raw_offset"], row["seq"])
            for row in rows
        }

    async def open(self, source: str, partition: int) -> Opened:
        """The state of a raw partition; a new one starts at offset 0."""
        await self._fetch(_OPEN, source, partition)
        row = (await self._fetch(_PARTITION, source, partition))[0]
        return Opened(Position(row["next"], row["seq"], row["watermark_us"], row["newest_us"]), row["emitted"])

    async def decide(self, source: str, partition: int, low: int, batch: Batch) -> None:
        """Make a batch's decisions durable, all or none; everything before `low` is in its topic by now.

        Raises Fenced when the partition is not at `low` any more, and ClaimedMeanwhile.
        """
        await self._decide(_DECIDE, source, partition, low, *_columns(batch))

    async def decide_unseen(self, source: str, partition: int, low: int, batch: Batch) -> None:
        """Like `decide` for a batch that was decided as if no id were known: raises ClaimedMeanwhile if one is."""
        *columns, _ = _columns(batch)
        await self._decide(_DECIDE_UNSEEN, source, partition, low, *columns)

    async def judge(self, place: tuple[str, int], low: int, batch: Batch, judged: Judged, topic: str) -> None:
        """Like `decide` for (source, partition), together with its quality's state and what is told on `topic`."""
        told = [_breach(each) for each in judged.breaches]
        if judged.until is not None:
            told.append(_told(judged.until))
        await self._decide(_JUDGE, *place, low, *_columns(batch), judged.state, topic, json.dumps(told))

    async def quality(self, source: str, partition: int) -> bytes:
        """The state that `judge` has stored, empty for none."""
        rows = await self._fetch(_QUALITY, source, partition)
        return bytes(rows[0]["state"]) if rows else b""

    async def quarantine(self, source: str | None, limit: int, *, released: bool) -> list[Quarantined]:
        """Quarantined windows, newest first, of one source or all; with those that were released or without."""
        return [_quarantined(row) for row in await self._fetch(_QUARANTINE, source, released, limit)]

    async def quarantined(self, name: str) -> Quarantined | None:
        """One quarantined window."""
        rows = await self._fetch(_QUARANTINED, name)
        return _quarantined(rows[0]) if rows else None

    async def release(self, name: str, detail: str, topic: str, envelope: Envelope) -> bool:
        """Let a window back into training and tell it, in one transaction; false when somebody did before."""
        try:
            async with self._ready().acquire() as conn, conn.transaction():
                found = await conn.fetchval(_RELEASE, name, detail)
                if found is not None:
                    await enqueue(conn, SCHEMA, topic, (envelope.subject or "").encode(), envelope)
                return found is not None
        except _TRANSIENT as error:
            raise Later(f"Postgres: {error!r}") from error

    async def _decide(self, statement: str, *arguments: object) -> None:
        try:
            await self._ready().execute(statement, *arguments)
        except _TRANSIENT as error:
            if getattr(error, "sqlstate", None) == FENCED:
                raise Fenced(str(error)) from None
            if getattr(error, "sqlstate", None) == CLAIMED:
                raise ClaimedMeanwhile from None
            raise Later(f"Postgres: {error!r}") from error

    async def emitted(self, source: str, partition: int, upto: int) -> None:
        """Note that everything below `upto` is in its topic, unless another owner has gone on since."""
        await self._fetch(_EMITTED, source, partition, upto)

    async def status(self) -> list[PartitionRow]:
        """All partitions of all sources, in order."""
        return [
            PartitionRow(
                row["source"], row["partition"],
                Position(row["next"], row["seq"], row["watermark_us"], row["newest_us"]), Counts(*tuple(row)[6:]),
            )
            for row in await self._fetch(_STATUS)
        ]  # fmt: skip

    async def event(self, source: str, event_id: str) -> EventRow | None:
        """What became of an id, or None when no record of it was processed."""
        rows = await self._fetch(_EVENT, source, event_id)
        return EventRow(*rows[0]) if rows else None

    async def watermarks(self, source: str) -> Mapping[int, int | None]:
        """Partition to watermark."""
        return {row["partition"]: row["watermark_us"] for row in await self._fetch(_WATERMARKS, source)}

    async def prune(self, source: str, partition: int, before_us: int) -> None:
        """Forget ids of events older than the horizon; an older event is late whatever its id."""
        await self._fetch(_PRUNE, source, partition, before_us)

    async def replayed(self, topic: str, places: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
        """Which of these (partition, offset) of a dead-letter topic were put back before."""
        rows = await self._fetch(_REPLAYED, topic, [p for p, _ in places], [o for _, o in places])
        return {(row["partition"], row["offset"]) for row in rows}

    async def note_replays(self, topic: str, places: Sequence[tuple[int, int]]) -> None:
        """Remember that these were put back."""
        await self._fetch(_NOTE, topic, [p for p, _ in places], [o for _, o in places])

    def _ready(self) -> Pool:
        if self._pool is None:
            raise Later("there is no connection to Postgres yet")
        return self._pool

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        try:
            return await self._ready().fetch(statement, *arguments)
        except _TRANSIENT as error:
            raise Later(f"Postgres: {error!r}") from error


def _columns(batch: Batch) -> tuple[object, ...]:
    at, claims = batch.position, list(batch.claims.values())
    return (
        [at.next, at.seq, at.watermark_us, at.newest_us], list(astuple(batch.counts)), [c.id for c in claims],
        [c.digest for c in claims], [c.outcome for c in claims], [c.offset for c in claims], [c.seq for c in claims],
        [c.time_us for c in claims], batch.conflicts,
    )  # fmt: skip


def _breach(breach: Breach) -> dict[str, object]:
    event = breach.event
    return {
        "field": event.field, "rule": event.rule, "value": event.value,
        "bound": event.bound, "rows": event.rows, "from_us": event.window_us[0], "to_us": event.window_us[1],
        "ranges": event.ranges, **_told(breach.envelope()),
    }  # fmt: skip


def _told(envelope: Envelope) -> dict[str, object]:
    headers = [[name, value.decode()] for name, value in envelope.headers()]
    return {"id": envelope.id, "event": envelope.data.decode(), "headers": headers}


def _quarantined(row: asyncpg.Record) -> Quarantined:
    return Quarantined(
        str(row["id"]), row["source"], row["partition"], row["field"], row["rule"], row["value"], row["bound"],
        row["row_count"], (row["from_us"], row["to_us"]), [(first, last) for first, last in json.loads(row["ranges"])],
        row["is_released"], row["detail"],
    )  # fmt: skip


class KnownIds:
    """Look-ups for the HTTP edge: those that come while a query is under way share the next one.

    Best effort: what the database does not answer in time is not known here; the operator finds every conflict.
    """

    def __init__(self, store: Store, *, timeout_s: float = 0.25) -> None:
        self._store, self._timeout = store, timeout_s
        self._waiting: dict[str, set[str]] = {}
        self._next: asyncio.Future[dict[str, dict[str, Known]]] | None = None
        self._busy: asyncio.Future[dict[str, dict[str, Known]]] | None = None

    async def known(self, source: str, ids: Sequence[str]) -> Mapping[str, Known]:
        """What is stored of these ids, or nothing."""
        self._waiting.setdefault(source, set()).update(ids)
        if self._next is None:
            self._next = asyncio.ensure_future(self._run(self._busy))
        found = await asyncio.shield(self._next)
        return found.get(source, {})

    async def _run(self, before: asyncio.Future[dict[str, dict[str, Known]]] | None) -> dict[str, dict[str, Known]]:
        if before is not None:
            await asyncio.wait({before})
        self._busy, self._next = self._next, None
        waiting, self._waiting = self._waiting, {}
        try:
            async with asyncio.timeout(self._timeout):
                return {source: await self._store.known(source, list(ids)) for source, ids in waiting.items()}
        except (Later, TimeoutError):
            return {}
