"""Postgres: a pool, migrations, and the consumer's offset moved in the transaction of its effect."""

import asyncio
import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Configuration, Fenced, Later

__all__ = ["Connection", "Fenced", "Pool", "migrate", "move_offset", "open_pool", "read_offsets", "sql"]

if TYPE_CHECKING:  # generic in the stubs only
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection | PoolConnectionProxy

_IDENTIFIER = re.compile(r"[a-z][a-z0-9_]{0,40}")
_HISTORY = (
    "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, digest text NOT NULL, at timestamptz DEFAULT now())"
)
_READ = "SELECT topic, partition, next FROM {schema}.consumer_offsets WHERE consumer = $1"
_FIRST = "INSERT INTO {schema}.consumer_offsets VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
_MOVE = """UPDATE {schema}.consumer_offsets SET next = $4
    WHERE consumer = $1 AND topic = $2 AND partition = $3 AND next = $5"""


@lru_cache(maxsize=512)
def sql(schema: str, text: str) -> str:
    """`text` with `{schema}` replaced; raises ValueError unless the schema is a plain lower-case identifier."""
    if not _IDENTIFIER.fullmatch(schema):
        raise ValueError("a schema is a lower-case identifier")
    return text.replace("{schema}", schema)


async def open_pool(
    dsn: str, *, min_size: int = 1, max_size: int = 4, deadline_s: float = 30.0, keep_sessions: bool = False
) -> Pool:
    """A pool of connections; raises Later when the server does not accept any within `deadline_s` seconds.

    With `keep_sessions` a connection goes back as it is, which saves a round trip for each use: for those who change
    nothing about a session (no SET, LISTEN, session lock or cursor outside of a transaction).

    A session that is frozen inside a transaction is ended by the server after 5 s, so it cannot block its successor.
    """
    backoff, deadline = Backoff(), asyncio.get_running_loop().time() + deadline_s
    while True:
        try:
            return await asyncpg.create_pool(
                dsn, min_size=min_size, max_size=max_size, command_timeout=30, timeout=10,
                reset=_keep if keep_sessions else None,
                server_settings={"idle_in_transaction_session_timeout": "5000", "jit": "off", "TimeZone": "UTC"},
            )  # fmt: skip
        except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError, TimeoutError) as error:
            if asyncio.get_running_loop().time() >= deadline:
                raise Later(f"Postgres did not answer within {deadline_s:g} s: {error!r}") from error
            await backoff.wait()


async def _keep(_: Connection) -> None:
    """Leave a session as it is."""


async def migrate(pool: Pool, schema: str, package: str) -> None:
    """Bring `schema` to the newest files of `tidemill_runtime/migrations` and `<package>/migrations`, ordered by name.

    Each file runs in its own transaction, once, recorded with its digest; replicas wait for each other on an advisory
    lock. The connection's search_path is the schema, so files name their tables plainly.
    Raises Configuration when a file that was applied has changed since.
    """
    async with pool.acquire() as conn:
        await conn.execute("SELECT pg_advisory_lock(hashtext($1))", f"tidemill.migrate.{schema}")
        try:
            await conn.execute(sql(schema, "CREATE SCHEMA IF NOT EXISTS {schema}"))
            for name, text in [*_files("tidemill_runtime"), *_files(package)]:
                await _apply(conn, schema, name, text)
        finally:
            await conn.execute("SELECT pg_advisory_unlock(hashtext($1))", f"tidemill.migrate.{schema}")


async def _apply(conn: Connection, schema: str, name: str, text: str) -> None:
    digest = hashlib.sha256(text.encode()).hexdigest()
    async with conn.transaction():
        await conn.execute(sql(schema, "SET LOCAL search_path TO {schema}"))
        await conn.execute(_HISTORY)
        known = await conn.fetchval("SELECT digest FROM migrations WHERE name = $1", name)
        if known is None:
            await conn.execute(text)
            await conn.execute("INSERT INTO migrations (name, digest) VALUES ($1, $2)", name, digest)
        elif known != digest:
            raise Configuration(f"migration {name} of schema {schema} was changed after it had been applied")


def _files(package: str) -> Iterable[tuple[str, str]]:
    folder = files(package) / "migrations"
    if not folder.is_dir():
        return []
    found = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".sql")), key=lambda entry: entry.name)
    return [(f"{package}/{entry.name}", entry.read_text("utf-8")) for entry in found]


async def read_offsets(conn: Connection, schema: str, consumer: str) -> dict[tuple[str, int], int]:
    """(topic, partition) to the next offset whose effect is not yet in the database."""
    rows = await conn.fetch(sql(schema, _READ), consumer)
    return {(row["topic"], row["partition"]): row["next"] for row in rows}


async def move_offset(  # noqa: PLR0913 - the key of a row and the two ends of its move
    conn: Connection, schema: str, consumer: str, topic: str, partition: int, low: int | None, high: int
) -> None:
    """Move the next offset from `low` (None: not stored yet) to `high`, in the caller's transaction.

    Raises Fenced when it is not at `low`: another owner has moved it, so the caller's transaction must roll back.
    """
    if low is None:
        status = await conn.execute(sql(schema, _FIRST), consumer, topic, partition, high)
    else:
        status = await conn.execute(sql(schema, _MOVE), consumer, topic, partition, high, low)
    if status.endswith(" 0"):
        raise Fenced(f"{consumer}: the offset of {topic}/{partition} is no longer at {low}")
