"""Real Kafka and Postgres for tests: one of each per pytest process, started when first asked for.

With pytest-xdist every worker has its own pair: nothing is shared, so nothing has to be counted or locked, and a killed
worker takes its servers along. `TIDEMILL_TEST_KAFKA` and `TIDEMILL_TEST_POSTGRES` name servers to use instead.
"""

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from tidemill.stack import LocalKafka, LocalPostgres


@pytest.fixture(scope="session")
def stack_folder() -> Iterator[Path]:
    """A short path for servers' data (a Unix socket's path is limited to 108 bytes), removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tm-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka_bootstrap(stack_folder: Path) -> Iterator[str]:
    """`host:port` of a real broker shared by the session: use `topic_prefix` to keep tests apart."""
    given = os.environ.get("TIDEMILL_TEST_KAFKA")
    if given:
        yield given
        return
    with LocalKafka(stack_folder / "kafka") as kafka:
        yield kafka.bootstrap


@pytest.fixture(scope="session")
def postgres_server(stack_folder: Path) -> Iterator[str]:
    """The DSN of a real server's `postgres` database, nothing synced to disk; tests want `postgres_dsn`."""
    given = os.environ.get("TIDEMILL_TEST_POSTGRES")
    if given:
        yield given
        return
    with LocalPostgres(stack_folder / "postgres", durable=False) as postgres:
        yield postgres.dsn


@pytest.fixture
def postgres_dsn(postgres_server: str) -> Iterator[str]:
    """The DSN of an empty database of the test's own, dropped afterwards whoever is still connected."""
    name = f"t_{uuid4().hex}"
    create_database(postgres_server, name)
    yield with_database(postgres_server, name)
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def postgres_template(postgres_server: str) -> Iterator[Callable[[str], str]]:
    """Databases cloned from one that was prepared once, for tests that need migrations or many rows.

    Prepare a database (its DSN is `clone("")` called first: an empty name makes the template), disconnect, then call
    with a name for each copy. Everything is dropped at the end of the module.
    """
    stem = f"m_{uuid4().hex[:12]}"
    made: list[str] = []

    def clone(name: str) -> str:
        database = f"{stem}_{name}" if name else stem
        create_database(postgres_server, database, template=stem if name else None)
        made.append(database)
        return with_database(postgres_server, database)

    yield clone
    for database in reversed(made):
        drop_database(postgres_server, database)


@pytest.fixture
def topic_prefix(request: pytest.FixtureRequest) -> str:
    """A prefix for the test's own topics and groups: the test's name and a few random characters."""
    return unique_name(request.node.name)


def unique_name(stem: str) -> str:
    """`stem` made safe for topics, groups and transactional ids, with 8 random hexadecimal digits."""
    return f"{re.sub(r'[^a-z0-9-]+', '-', stem.lower())[:60].strip('-')}-{uuid4().hex[:8]}"


def with_database(dsn: str, database: str) -> str:
    """The same server, another database."""
    return urlsplit(dsn)._replace(path=f"/{database}").geturl()


def create_database(server: str, database: str, *, template: str | None = None) -> None:
    """Make a database, empty or as a copy of `template` (to which nobody may be connected)."""
    _execute(server, f'CREATE DATABASE "{database}" TEMPLATE "{template or "template0"}" STRATEGY file_copy')


def drop_database(server: str, database: str) -> None:
    """Drop a database and disconnect whoever uses it."""
    _execute(server, f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')


def _execute(dsn: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    with asyncio.Runner() as runner:  # not asyncio.run: it would leave this thread without its event loop
        runner.run(run())
