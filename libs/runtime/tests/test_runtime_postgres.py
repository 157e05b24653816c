import asyncio
from pathlib import Path

import asyncpg
import pytest

from tidemill_runtime.errors import Configuration, Later
from tidemill_runtime.inbox import first_time
from tidemill_runtime.postgres import Fenced, Pool, migrate, move_offset, open_pool, read_offsets, sql

SCHEMA = "owner"


async def test_an_offset_moves_only_from_where_it_is(pool: Pool) -> None:
    async with pool.acquire() as conn:
        await move_offset(conn, SCHEMA, "g", "t", 0, None, 5)
        await move_offset(conn, SCHEMA, "g", "t", 0, 5, 9)
        for low in (None, 5, 8):
            with pytest.raises(Fenced):
                await move_offset(conn, SCHEMA, "g", "t", 0, low, 10)
        await move_offset(conn, SCHEMA, "g", "t", 1, None, 2)
        await move_offset(conn, SCHEMA, "other", "t", 0, None, 1)
        assert await read_offsets(conn, SCHEMA, "g") == {("t", 0): 9, ("t", 1): 2}


async def test_the_loser_of_two_owners_rolls_its_effect_back(pool: Pool) -> None:
    await pool.execute("CREATE TABLE effects (owner text)")
    async with pool.acquire() as conn:
        await move_offset(conn, SCHEMA, "g", "t", 0, None, 5)

    async def own(name: str) -> None:
        async with pool.acquire() as conn, conn.transaction():
            await conn.execute("INSERT INTO effects VALUES ($1)", name)
            await move_offset(conn, SCHEMA, "g", "t", 0, 5, 7)

    outcomes = await asyncio.gather(own("a"), own("b"), own("c"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [Fenced, Fenced]
    assert await pool.fetchval("SELECT count(*) FROM effects") == 1


async def test_an_event_is_new_to_a_consumer_once(pool: Pool) -> None:
    async with pool.acquire() as conn:
        assert await first_time(conn, SCHEMA, "a", "e1")
        assert not await first_time(conn, SCHEMA, "a", "e1")
        assert await first_time(conn, SCHEMA, "b", "e1")
        undone = conn.transaction()
        await undone.start()
        assert await first_time(conn, SCHEMA, "a", "e2")
        await undone.rollback()
        assert await first_time(conn, SCHEMA, "a", "e2")


async def test_migrations_run_once_and_refuse_a_changed_file(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "svc_under_test"
    (package / "migrations").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "migrations/0002_more.sql").write_text("INSERT INTO things VALUES (2);")
    (package / "migrations/0001_things.sql").write_text("CREATE TABLE things (n int); INSERT INTO things VALUES (1);")
    monkeypatch.syspath_prepend(tmp_path)
    await asyncio.gather(*(migrate(pool, "svc", "svc_under_test") for _ in range(3)))
    assert [row["n"] for row in await pool.fetch("SELECT n FROM svc.things ORDER BY n")] == [1, 2]
    (package / "migrations/0002_more.sql").write_text("INSERT INTO things VALUES (3);")
    with pytest.raises(Configuration, match="0002_more"):
        await migrate(pool, "svc", "svc_under_test")


async def test_a_session_frozen_in_a_transaction_is_ended(pool: Pool) -> None:
    assert await pool.fetchval("SHOW idle_in_transaction_session_timeout") == "5s"


async def test_a_server_that_is_away_is_later(tmp_path: Path) -> None:
    with pytest.raises(Later):
        await open_pool(f"postgresql://postgres@/postgres?host={tmp_path}", deadline_s=0.3)


def test_a_schema_is_a_plain_identifier() -> None:
    assert sql("owner", "SELECT * FROM {schema}.t") == "SELECT * FROM owner.t"
    for name in ("Owner", "a b", "a;drop", "", "1a", 'a"'):
        with pytest.raises(ValueError, match="identifier"):
            sql(name, "SELECT 1")


async def test_rows_of_a_schema_need_the_migration(pool: Pool) -> None:
    async with pool.acquire() as conn:
        with pytest.raises(asyncpg.UndefinedTableError):
            await read_offsets(conn, "stranger", "g")
