"""With `cold_rows` the only module that speaks SQL: checkpoints of view partitions and positions of routes.

A checkpoint is one transaction: the owner's epoch and generation are compared and raised, segments and marks follow.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain

import asyncpg
import msgspec

from tidemill_features import cold_rows
from tidemill_features.domain import segments
from tidemill_features.domain.cold import Chilled, Found, Rows, Wanted
from tidemill_features.domain.marks import Capture, Marks
from tidemill_features.domain.route import RouteMarks
from tidemill_features.domain.segments import Owner, SegmentRef
from tidemill_features.domain.views import View
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Fenced, Later
from tidemill_runtime.postgres import Connection, Pool

SCHEMA = "features"
INLINE_BYTES = 256 * 1024
"""A segment up to this size is stored in Postgres itself."""

_OWN = """INSERT INTO features.owners VALUES ($1, 1) ON CONFLICT (partition)
    DO UPDATE SET epoch = owners.epoch + 1 RETURNING epoch, generation"""
_FENCE = """UPDATE features.owners SET generation = generation + 1
    WHERE partition = $1 AND epoch = $2 AND generation = $3"""
_OWNER = "SELECT epoch, generation FROM features.owners WHERE partition = $1"
_KEY = "view = $1 AND version = $2 AND partition = $3"
_MARKS = f"SELECT marks FROM features.checkpoints WHERE {_KEY}"  # noqa: S608 - no input in it
_SEGMENTS = f"SELECT number, size, digest, body FROM features.segments WHERE {_KEY} ORDER BY number"  # noqa: S608
_SAVE = """INSERT INTO features.checkpoints VALUES ($1, $2, $3, $4)
    ON CONFLICT (view, version, partition) DO UPDATE SET marks = excluded.marks"""
_DROP = f"DELETE FROM features.segments WHERE {_KEY} AND number = ANY($4)"  # noqa: S608
_ADD = "INSERT INTO features.segments VALUES ($1, $2, $3, $4, $5, $6, $7)"
_ROUTE = f"SELECT next_offset, seq, watermark_us FROM features.routed WHERE {_KEY}"  # noqa: S608
_SAVE_ROUTE = """INSERT INTO features.routed VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (view, version, partition) DO UPDATE
    SET next_offset = excluded.next_offset, seq = excluded.seq, watermark_us = excluded.watermark_us
    WHERE routed.next_offset < excluded.next_offset"""
_READ = "DELETE FROM features.unread WHERE view = $1 AND version = $2"
_NAMED = "(view, version) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
_KNOWN = " UNION ".join(f"SELECT view, version FROM features.{name}" for name in ("checkpoints", "segments", "routed"))  # noqa: S608
_STILL_READ = f"DELETE FROM features.unread WHERE {_NAMED}"  # noqa: S608 - no input in it
_UNREAD = f"""INSERT INTO features.unread (view, version) SELECT * FROM ({_KNOWN}) AS known WHERE NOT {_NAMED}
    ON CONFLICT DO NOTHING"""  # noqa: S608 - no input in it
_DUE = """UPDATE features.unread SET is_gone = true WHERE is_gone OR since <= now() - $1::interval
    RETURNING view, version"""
_GONE_SEGMENTS = f"DELETE FROM features.segments WHERE {_NAMED} RETURNING digest"  # noqa: S608 - no input in it
_GONE = [f"DELETE FROM features.{name} WHERE {_NAMED}" for name in ("checkpoints", "routed", "cold")]  # noqa: S608
_LOST = (
    OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
)  # fmt: skip

_NOTHING_COLD = Chilled()


@dataclass(frozen=True, slots=True)
class _Write:
    """A segment to be stored in place of others."""

    view: View
    marks: Marks
    replaced: Sequence[SegmentRef] = ()
    added: SegmentRef | None = None
    body: bytes | None = None
    cold: Chilled = _NOTHING_COLD


class Store:
    """Checkpoints and routes, in the schema `features`."""

    def __init__(self, pool: Pool, artifacts: Artifacts, *, inline_bytes: int = INLINE_BYTES) -> None:
        self._pool, self._artifacts, self._inline = pool, artifacts, inline_bytes
        self._unsaved: dict[tuple[int, int], Sequence[_Write]] = {}  # by partition and epoch: outcome not known yet

    # ownership

    async def own(self, partition: int) -> Owner:
        """Take a partition number over: whoever stored it before is fenced. Raises Later without Postgres."""
        try:
            row = await self._pool.fetchrow(_OWN, partition)
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error
        if row is None:
            raise Later("the store gave no epoch")
        return Owner(partition, row["epoch"], row["generation"])

    async def check(self, owner: Owner) -> None:
        """Raises Fenced when somebody has taken over since, Later without Postgres."""
        epoch, _ = await self._owner(owner.partition)
        if epoch != owner.epoch:
            raise Fenced(f"partition {owner.partition} has another owner")

    async def _owner(self, partition: int) -> tuple[int, int]:
        try:
            row = await self._pool.fetchrow(_OWNER, partition)
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error
        return (row["epoch"], row["generation"]) if row is not None else (0, 0)

    # checkpoints

    async def load(self, owner: Owner, view: View) -> tuple[Marks, list[tuple[bytes, bytes | None]]]:
        """Marks and keys of a view as last stored; empty marks for one that never was. Raises ValueError for damage."""
        key = (view.name, view.version, owner.partition)
        try:
            await self._pool.execute(_READ, view.name, view.version)
            async with self._pool.acquire() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
                marks = await conn.fetchval(_MARKS, *key)
                rows = await conn.fetch(_SEGMENTS, *key)
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error
        owner.known[view.owner] = [SegmentRef(row["number"], row["size"], row["digest"]) for row in rows]
        entries = await asyncio.to_thread(self._merged, view, owner.partition, [(r["digest"], r["body"]) for r in rows])
        return (Marks() if marks is None else msgspec.json.decode(marks, type=Marks)), entries

    async def cold(self, owner: Owner, view: View) -> Rows:
        """How many keys of a view lie in rows of their own, and when the first of them is due."""
        try:
            async with self._pool.acquire() as conn:
                return await cold_rows.rows_of(conn, (view.name, view.version, owner.partition))
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error

    async def fetch(self, view: View, partition: int, wanted: Wanted) -> Found:
        """Rows of cold keys. Whoever was replaced meanwhile may get others than it stored, and can write nothing."""
        try:
            async with self._pool.acquire() as conn:
                return await cold_rows.read(conn, (view.name, view.version, partition), wanted)
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error

    def _merged(
        self, view: View, partition: int, stored: Sequence[tuple[str | None, bytes | None]]
    ) -> list[tuple[bytes, bytes | None]]:
        bodies = [body if body is not None else self._artifacts.get(digest or "") for digest, body in stored]
        return segments.merge((segments.unpack(body, _owner_text(view, partition)) for body in bodies), oldest=True)

    async def save(self, owner: Owner, captures: Sequence[tuple[View, Capture]]) -> None:
        """Store captures in one transaction. Raises Fenced when somebody has taken over.

        After Later call it again with the same captures until it succeeds: the first attempt may have been stored.
        """
        key, number = (owner.partition, owner.epoch), owner.generation + 1
        if key not in self._unsaved:
            self._unsaved[key] = [await self._prepare(owner, view, capture, number) for view, capture in captures]
        try:
            await self._write(owner, self._unsaved[key])
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error
        except Fenced:
            del self._unsaved[key]
            raise
        owner.generation = number
        await asyncio.to_thread(self._settle, owner, self._unsaved.pop(key))

    async def _prepare(self, owner: Owner, view: View, capture: Capture, number: int) -> _Write:
        if not capture.entries:
            return _Write(view, capture.marks, cold=capture.cold)
        name = _owner_text(view, owner.partition)
        body = await asyncio.to_thread(segments.pack, name, capture.entries)
        plan = segments.plan(owner.known.get(view.owner, []), len(body))
        if plan.merge:
            older = [await self._body(owner, view, ref) for ref in plan.merge]
            body = await asyncio.to_thread(_merge, name, older, capture.entries, oldest=not plan.keep)
        write = _Write(view, capture.marks, plan.merge, SegmentRef(number, len(body), None), body, capture.cold)
        if len(body) <= self._inline:
            return write
        digest = await asyncio.to_thread(self._artifacts.put, body)
        return replace(write, added=SegmentRef(number, len(body), digest), body=None)

    async def _body(self, owner: Owner, view: View, ref: SegmentRef) -> bytes:
        if ref.digest is not None:
            return await asyncio.to_thread(self._artifacts.get, ref.digest)
        text = f"SELECT body FROM features.segments WHERE {_KEY} AND number = $4"  # noqa: S608 - no input in it
        try:
            body = await self._pool.fetchval(text, view.name, view.version, owner.partition, ref.number)
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error
        if body is None:
            raise Fenced(f"a segment of {view.owner} is gone: somebody else has merged it")
        return bytes(body)

    async def _write(self, owner: Owner, writes: Sequence[_Write]) -> None:
        async with self._pool.acquire() as conn, conn.transaction():
            status = await conn.execute(_FENCE, owner.partition, owner.epoch, owner.generation)
            if status.endswith(" 0"):
                await self._was_it_me(conn, owner)
                return
            for write in writes:
                await _write_one(conn, owner.partition, write)

    @staticmethod
    async def _was_it_me(conn: Connection, owner: Owner) -> None:
        """A commit without an answer may have happened: then this is its repeat. Else raises Fenced."""
        row = await conn.fetchrow(_OWNER, owner.partition)
        if row is None or (row["epoch"], row["generation"]) != (owner.epoch, owner.generation + 1):
            raise Fenced(f"partition {owner.partition} has another owner")

    def _settle(self, owner: Owner, writes: Sequence[_Write]) -> None:
        """Remember what is stored now and remove artifacts that nothing points to."""
        for write in writes:
            known = owner.known.setdefault(write.view.owner, [])
            kept = [ref for ref in known if ref not in write.replaced]
            owner.known[write.view.owner] = kept + ([write.added] if write.added else [])
            used = {ref.digest for ref in owner.known[write.view.owner]}
            for ref in write.replaced:
                if ref.digest is not None and ref.digest not in used:
                    self._artifacts.remove(ref.digest)

    # routes

    async def load_route(self, view: View, partition: int) -> RouteMarks:
        """How far a source partition was routed for a view."""
        try:
            await self._pool.execute(_READ, view.name, view.version)
            row = await self._pool.fetchrow(_ROUTE, view.name, view.version, partition)
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error
        return RouteMarks() if row is None else RouteMarks(**row)

    async def save_routes(self, partition: int, marks: Sequence[tuple[View, RouteMarks]]) -> None:
        """Move the marks forward, never back."""
        rows = [(v.name, v.version, partition, m.next_offset, m.seq, m.watermark_us) for v, m in marks]
        try:
            async with self._pool.acquire() as conn:
                await conn.executemany(_SAVE_ROUTE, rows)
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error

    # versions that nobody reads

    async def forget(self, named: Iterable[tuple[str, str]], *, after_s: float) -> list[tuple[str, str]]:
        """Delete the state of versions, (view, version), that were not among `named` for `after_s` seconds.

        Returns those whose topics are to be deleted, until `forgotten` says that they are. Whoever loads a version
        meanwhile either keeps its state, or comes too late and begins anew, as with a version that is new.
        """
        columns = _columns(named)
        try:
            async with self._pool.acquire() as conn, conn.transaction():
                await conn.execute(_STILL_READ, *columns)
                await conn.execute(_UNREAD, *columns)
                due = [(row["view"], row["version"]) for row in await conn.fetch(_DUE, timedelta(seconds=after_s))]
                digests = [row["digest"] for row in await conn.fetch(_GONE_SEGMENTS, *_columns(due))]
                for statement in _GONE:
                    await conn.execute(statement, *_columns(due))
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error
        for digest in filter(None, digests):  # a segment names its owner, so no other one has its digest
            await asyncio.to_thread(self._artifacts.remove, digest)
        return due

    async def forgotten(self, versions: Iterable[tuple[str, str]]) -> None:
        """Their topics are gone, too."""
        try:
            await self._pool.execute(_STILL_READ, *_columns(versions))
        except _LOST as error:
            raise Later(f"the store does not answer: {error!r}") from error


def _columns(versions: Iterable[tuple[str, str]]) -> tuple[list[str], list[str]]:
    pairs = sorted(set(versions))
    return [view for view, _ in pairs], [version for _, version in pairs]


async def _write_one(conn: Connection, partition: int, write: _Write) -> None:
    key = (write.view.name, write.view.version, partition)
    await conn.execute(_SAVE, *key, msgspec.json.encode(write.marks).decode())
    if write.replaced:
        await conn.execute(_DROP, *key, [ref.number for ref in write.replaced])
    if write.added is not None:
        await conn.execute(_ADD, *key, write.added.number, write.added.size, write.added.digest, write.body)
    await cold_rows.write(conn, key, write.cold)


def _merge(name: str, older: Sequence[bytes], entries: Sequence[tuple[bytes, bytes | None]], *, oldest: bool) -> bytes:
    parts = chain((segments.unpack(body, name) for body in older), [entries])
    return segments.pack(name, segments.merge(parts, oldest=oldest))


def _owner_text(view: View, partition: int) -> str:
    return f"{view.owner}/{partition}"
