import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tidemill.stack import LocalKafka, LocalPostgres, StartFailedError
from tidemill.stack.kafka import broker_count
from tidemill.stack.process import free_port


async def _ask(dsn: str, query: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


async def _topics(bootstrap: str, *create: str) -> set[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        if create:
            await admin.create_topics([NewTopic(name, 1, 1) for name in create])
        return set(await admin.list_topics())
    finally:
        await admin.close()


def test_a_topic_can_be_made_as_soon_as_the_broker_is_ready(kafka_bootstrap: str, topic_prefix: str) -> None:
    assert topic_prefix in asyncio.run(_topics(kafka_bootstrap, topic_prefix))


def test_an_open_port_that_does_not_speak_kafka_is_not_ready() -> None:
    assert broker_count("127.0.0.1", free_port(), timeout_s=0.2) == 0


def test_each_test_gets_an_empty_database(postgres_dsn: str) -> None:
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert asyncio.run(_ask(postgres_dsn, count)) == 0
    asyncio.run(_ask(postgres_dsn, "CREATE TABLE t (a int)"))


def test_a_second_test_does_not_see_the_first_one(postgres_dsn: str) -> None:
    assert asyncio.run(_ask(postgres_dsn, "SELECT to_regclass('t')")) is None


def test_a_clone_has_what_the_template_had(postgres_template: Callable[[str], str]) -> None:
    asyncio.run(_ask(postgres_template(""), "CREATE TABLE t AS SELECT 7 AS a"))
    first, second = postgres_template("one"), postgres_template("two")
    asyncio.run(_ask(first, "UPDATE t SET a = 8"))
    assert asyncio.run(_ask(second, "SELECT a FROM t")) == 7


def test_text_sorts_by_bytes_on_every_machine(postgres_dsn: str) -> None:
    assert (
        asyncio.run(_ask(postgres_dsn, "SELECT string_agg(c, '' ORDER BY c) FROM unnest('{b,A,a,B}'::text[]) c"))
        == "ABab"
    )


def test_a_killed_postgres_comes_back_with_what_was_committed(stack_folder: Path) -> None:
    with LocalPostgres(stack_folder / "killed") as postgres:
        asyncio.run(_ask(postgres.dsn, "CREATE TABLE t AS SELECT 7 AS a"))
        postgres.kill()
        postgres.start()
        assert asyncio.run(_ask(postgres.dsn, "SELECT a FROM t")) == 7


def test_a_deep_folder_still_has_a_usable_socket(stack_folder: Path) -> None:
    deep = stack_folder / ("d" * 60) / ("e" * 60)
    with LocalPostgres(deep, durable=False) as postgres:
        assert asyncio.run(_ask(postgres.dsn, "SELECT 1")) == 1
        assert not postgres.socket_folder.is_relative_to(deep)


def test_a_broken_cluster_is_reported_with_the_end_of_its_log(stack_folder: Path) -> None:
    postgres = LocalPostgres(stack_folder / "broken", durable=False)
    postgres.prepare()
    (postgres.data / "postgresql.conf").write_text("nonsense = 1\n")
    with pytest.raises(StartFailedError, match=r"(?s)ended with code 1 while starting.*nonsense"):
        postgres.start()


@pytest.mark.slow
def test_a_killed_broker_comes_back_with_its_topics(stack_folder: Path) -> None:
    with LocalKafka(stack_folder / "kafka-killed") as kafka:
        asyncio.run(_topics(kafka.bootstrap, "kept"))
        kafka.kill()
        kafka.start()
        assert "kept" in asyncio.run(_topics(kafka.bootstrap))
