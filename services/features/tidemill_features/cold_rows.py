"""The statements of `store` about rows of cold keys; each runs on a connection that is given."""

from collections.abc import Iterator, Sequence
from typing import Any

from tidemill_features.domain.cold import NEVER, Chilled, Found, Rows, Wanted
from tidemill_runtime.postgres import Connection

Key = tuple[str, str, int]
"""View, version and partition."""
PAGE = 2_000
"""Rows that are read or written at once."""
_ONE = "view = $1 AND version = $2 AND partition = $3"
_ROWS = f"SELECT count(*) AS number, min(due_us) AS due_us FROM features.cold WHERE {_ONE}"  # noqa: S608 - no input in it
_OF_KEYS = f"SELECT key, blob FROM features.cold WHERE {_ONE} AND key = ANY($4::bytea[])"  # noqa: S608
_DUE = f"""SELECT key, due_us, CASE WHEN dies_us > $6 THEN blob END AS blob FROM features.cold
    WHERE {_ONE} AND (due_us, key) >= ($4, $5) AND due_us <= $6 ORDER BY due_us, key LIMIT $7"""  # noqa: S608
_NEXT = f"SELECT min(due_us) FROM features.cold WHERE {_ONE} AND due_us > $4"  # noqa: S608
_PUT = """INSERT INTO features.cold (view, version, partition, key, due_us, blob, dies_us)
    SELECT $1, $2, $3, * FROM unnest($4::bytea[], $5::bigint[], $6::bytea[], $7::bigint[])
    ON CONFLICT (view, version, partition, key)
    DO UPDATE SET due_us = excluded.due_us, blob = excluded.blob, dies_us = excluded.dies_us"""
_MOVE = f"""UPDATE features.cold SET due_us = moved.due_us
    FROM unnest($4::bytea[], $5::bigint[]) AS moved (name, due_us) WHERE {_ONE} AND key = moved.name"""  # noqa: S608
_DROP = f"DELETE FROM features.cold WHERE {_ONE} AND key = ANY($4::bytea[])"  # noqa: S608


async def rows_of(conn: Connection, key: Key) -> Rows:
    """What there is."""
    row = await conn.fetchrow(_ROWS, *key)
    return Rows() if row is None else Rows(row["number"], row["due_us"])


async def read(conn: Connection, key: Key, wanted: Wanted) -> Found:
    """The rows that are wanted; of due ones a page."""
    rows = await conn.fetch(_OF_KEYS, *key, wanted.keys) if wanted.keys else []
    found = [(row["key"], row["blob"]) for row in rows]
    if wanted.until_us is None:
        return Found(found)
    due = await conn.fetch(_DUE, *key, *wanted.since, min(wanted.until_us, NEVER), PAGE)
    found += [(row["key"], row["blob"]) for row in due]
    if len(due) == PAGE:
        return Found(found, (due[-1]["due_us"], due[-1]["key"] + b"\0"))
    return Found(found, None, await conn.fetchval(_NEXT, *key, wanted.until_us))


async def write(conn: Connection, key: Key, cold: Chilled) -> None:
    """All changes of a checkpoint; part of its transaction."""
    for dropped in _pages(cold.dropped):
        await conn.execute(_DROP, *key, dropped)
    for moved in _pages(cold.moved):
        await conn.execute(_MOVE, *key, *map(list, zip(*moved, strict=True)))
    for put in _pages(cold.put):
        await conn.execute(_PUT, *key, *map(list, zip(*put, strict=True)))


def _pages(rows: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), PAGE):
        yield rows[start : start + PAGE]
