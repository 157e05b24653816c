"""Decisions in a real database: all or none, once, and fenced."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from ingestion_cases import FLIGHTS, Rec, event, garbage, record, timer

from tidemill_ingestion.domain.decide import Batch, Known, Position, decide
from tidemill_ingestion.domain.readings import read
from tidemill_ingestion.domain.stored import ClaimedMeanwhile
from tidemill_ingestion.store import KnownIds, Store
from tidemill_runtime.errors import Fenced, Later

pytestmark = pytest.mark.anyio


@pytest.fixture
async def store(postgres_dsn: str) -> AsyncIterator[Store]:
    found = Store()
    await found.connect(postgres_dsn)
    yield found
    await found.close()


def batch(records: list[Rec], known: dict[str, Known] | None = None, position: Position = Position()) -> Batch:  # noqa: B008
    return decide(FLIGHTS, [(r, read(FLIGHTS, r)) for r in records], known or {}, position)


async def test_a_batch_is_stored_with_its_position_and_counts(store: Store) -> None:
    assert (await store.open("flights", 0)).position == Position()
    again = record(3, event("a", delay=3))
    work = batch([record(0, event("a")), garbage(1), record(2, event("b")), again, timer(4, 0)])
    await store.decide("flights", 0, 0, work)
    opened = await store.open("flights", 0)
    assert (opened.position, opened.emitted) == (work.position, 0)
    known = await store.known("flights", ["a", "b", "c"])
    assert {name: (k.outcome, k.offset, k.seq) for name, k in known.items()} == {
        "a": ("applied", 0, 0), "b": ("applied", 2, 1),
    }  # fmt: skip
    assert [row.counts for row in await store.status()] == [work.counts]
    found = await store.event("flights", "a")
    assert found is not None
    assert (found.outcome, found.raw_offset, found.conflicts) == ("applied", 0, 1)
    assert await store.event("weather", "a") is None


async def test_the_same_batch_again_is_fenced_and_changes_nothing(store: Store) -> None:
    await store.open("flights", 0)
    work = batch([record(0, event("a"))])
    await store.decide("flights", 0, 0, work)
    before = await store.status()
    for low in (0, 5):
        with pytest.raises(Fenced):
            await store.decide("flights", 0, low, work)
    assert await store.status() == before


async def test_of_two_partitions_with_one_id_the_second_looks_again(store: Store) -> None:
    for partition in (0, 1):
        await store.open("flights", partition)
    first = batch([record(0, event("a"))])
    second = batch([record(0, event("b", partition=1), partition=1), record(1, event("a", partition=1), partition=1)])
    await store.decide("flights", 0, 0, first)
    with pytest.raises(ClaimedMeanwhile):
        await store.decide("flights", 1, 0, second)
    assert (await store.open("flights", 1)).position == Position()
    assert set(await store.known("flights", ["a", "b"])) == {"a"}


async def test_partitions_that_claim_the_same_ids_at_once_never_deadlock(store: Store) -> None:
    names = [f"e{n}" for n in range(50)]
    batches = []
    for partition, order in enumerate((names, names[::-1], names)):
        await store.open("flights", partition)
        batches.append(
            batch([record(n, event(name, partition=partition), partition=partition) for n, name in enumerate(order)])
        )
    outcomes = await asyncio.gather(
        *(store.decide("flights", p, 0, work) for p, work in enumerate(batches)), return_exceptions=True
    )
    assert sorted(type(o).__name__ for o in outcomes) == ["ClaimedMeanwhile", "ClaimedMeanwhile", "NoneType"]


async def test_a_refused_id_becomes_an_event_and_the_identity_holds(store: Store) -> None:
    await store.open("flights", 0)
    refused = batch([replace(record(0, event("a")), value=b"{}")])
    await store.decide("flights", 0, 0, refused)
    good = batch([record(1, event("a"))], await store.known("flights", ["a"]), refused.position)
    await store.decide("flights", 0, 1, good)
    counts = (await store.status())[0].counts
    assert (counts.applied, counts.dead_lettered, counts.refused, counts.records) == (1, 0, 1, 2)
    assert (await store.known("flights", ["a"]))["a"].outcome == "applied"


async def test_what_nobody_looked_up_is_stored_if_all_of_it_is_new_and_not_at_all_if_one_id_is_known(
    store: Store,
) -> None:
    await store.open("flights", 0)
    first = batch([record(0, event("a")), replace(record(1, event("r")), value=b"{}")])
    await store.decide("flights", 0, 0, first)
    new = batch([record(2, event("b")), timer(3, 0), record(4, event("c"))], position=first.position)
    with pytest.raises(Fenced):
        await store.decide_unseen("flights", 0, 1, new)
    await store.decide_unseen("flights", 0, 2, new)
    assert (await store.open("flights", 0)).position == new.position
    before = await store.status()
    for known in ("a", "b", "r"):
        work = batch([record(5, event("d")), record(6, event(known))], position=new.position)
        with pytest.raises(ClaimedMeanwhile):
            await store.decide_unseen("flights", 0, 5, work)
    assert await store.status() == before
    assert {name: (k.outcome, k.seq) for name, k in (await store.known("flights", list("abcdr"))).items()} == {
        "a": ("applied", 0), "b": ("applied", 1), "c": ("applied", 2), "r": ("dead_lettered", None),
    }  # fmt: skip


async def test_the_emitted_mark_moves_only_to_where_the_decisions_are(store: Store) -> None:
    await store.open("flights", 0)
    await store.decide("flights", 0, 0, batch([record(0, event("a")), record(1, event("b"))]))
    await store.emitted("flights", 0, 1)
    assert (await store.open("flights", 0)).emitted == 0
    await store.emitted("flights", 0, 2)
    assert (await store.open("flights", 0)).emitted == 2


async def test_old_ids_are_forgotten(store: Store) -> None:
    await store.open("flights", 0)
    newer = event("b", time="2013-01-01T11:30:00Z")
    await store.decide("flights", 0, 0, batch([record(0, event("a")), record(1, newer)]))
    await store.prune("flights", 0, newer.time_us)
    assert set(await store.known("flights", ["a", "b"])) == {"b"}


async def test_look_ups_of_many_requests_share_a_query_and_do_without_the_database(store: Store) -> None:
    await store.open("flights", 0)
    await store.decide("flights", 0, 0, batch([record(n, event(f"e{n}")) for n in range(20)]))
    edge = KnownIds(store, timeout_s=5)
    found = await asyncio.gather(*(edge.known("flights", [f"e{n}"]) for n in range(40)))
    assert [f"e{n}" in known for n, known in enumerate(found)] == [True] * 20 + [False] * 20
    await store.close()
    assert await edge.known("flights", ["e1"]) == {}
    with pytest.raises(Later):
        await store.known("flights", ["e1"])
