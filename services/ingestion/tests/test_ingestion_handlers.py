"""The operator of a raw partition: every batch is delivered twice, and dies at every step once."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from ingestion_cases import FLIGHTS, HOUR, NOON, Rec, as_columns, event, garbage, record, taken_apart, timer

from tidemill_ingestion.domain.decide import Batch, Known, Position
from tidemill_ingestion.domain.outgoing import Sendable
from tidemill_ingestion.domain.recent import RecentEvents
from tidemill_ingestion.domain.stored import ClaimedMeanwhile, Opened
from tidemill_ingestion.handlers.raw import RawTask
from tidemill_runtime.dlq import DeadLetterLimiter
from tidemill_runtime.errors import Fenced, Later, Stalled

pytestmark = pytest.mark.anyio
RAW = "tidemill.raw.flights.v1"


@dataclass
class Memory:
    """Decisions in memory; the contract test runs the same calls against Postgres."""

    rows: dict[str, Known] = field(default_factory=dict)
    at: dict[tuple[str, int], tuple[Position, int]] = field(default_factory=dict)
    records: int = 0
    fail: int = 0
    claimed: int = 0
    looked: int = 0
    unseen: int = 0

    async def open(self, source: str, partition: int) -> Opened:
        return Opened(*self.at.setdefault((source, partition), (Position(), 0)))

    async def known(self, source: str, ids: Sequence[str]) -> dict[str, Known]:
        assert source == "flights"
        self.looked += 1
        return {name: self.rows[name] for name in ids if name in self.rows}

    async def decide(self, source: str, partition: int, low: int, batch: Batch) -> None:
        if self.fail:
            self.fail -= 1
            raise Later("the database is away")
        if self.claimed:
            self.claimed -= 1
            raise ClaimedMeanwhile
        if self.at[source, partition][0].next != low:
            raise Fenced("moved")
        self.at[source, partition] = (batch.position, low)
        self.records += batch.counts.records
        self.rows |= {c.id: Known(c.digest, c.outcome, partition, c.offset, c.seq) for c in batch.claims.values()}

    async def decide_unseen(self, source: str, partition: int, low: int, batch: Batch) -> None:
        self.unseen += 1
        if not self.rows.keys().isdisjoint(batch.claims):
            raise ClaimedMeanwhile
        await self.decide(source, partition, low, batch)

    async def emitted(self, source: str, partition: int, upto: int) -> None:
        if self.at[source, partition][0].next == upto:
            self.at[source, partition] = (self.at[source, partition][0], upto)


@dataclass
class Topic:
    """What was written."""

    written: list[Sendable] = field(default_factory=list)
    fail: int = 0

    async def write(self, records: Sequence[Sendable]) -> None:
        if self.fail:
            self.fail -= 1
            self.written += records[: len(records) // 2]
            raise Later("the broker is away")
        self.written += records


def make(store: Memory, sink: Topic, limiter: DeadLetterLimiter | None = None) -> RawTask:
    return RawTask(
        FLIGHTS, 0, prefix="tidemill", store=store, sink=sink, limiter=limiter or DeadLetterLimiter(share=1.0)
    )


async def deliver(store: Memory, sink: Topic, log: list[Rec]) -> None:
    """A new owner of the partition reads from where its task says, everything."""
    task = make(store, sink)
    start = (await task.open())[RAW]
    records = [r for r in log if r.offset >= start]
    if records:
        await task.process({RAW: records})
    await task.idle()
    await task.idle()
    await task.close(lost=False)


def seen(sink: Topic) -> list[tuple[str, bytes, bytes]]:
    """What a reader keeps: events topics by rising origin, dead letters by their id."""
    kept: dict[tuple[str, bytes], tuple[str, bytes, bytes]] = {}
    for out in sink.written:
        value, headers = taken_apart(out)
        mark = headers.get(b"tm_origin") or headers[b"tm_dlq_id"]
        kept.setdefault((out.topic, mark or b""), (out.topic, mark or b"", value or b""))
    return list(kept.values())


LOG = [
    record(0, event("a")), garbage(1), record(2, event("b")), record(3, event("a")), timer(4, NOON - HOUR),
    record(5, event("b", delay=9)), record(6, event("c", time="2013-01-01T09:00:00Z")),
]  # fmt: skip


async def test_a_batch_that_is_delivered_twice_has_one_effect() -> None:
    store, sink = Memory(), Topic()
    task = make(store, sink)
    await task.open()
    await task.process({RAW: LOG})
    await task.process({RAW: LOG})
    assert store.records == len(LOG)
    once = Topic()
    await deliver(Memory(), once, LOG)
    assert seen(sink) == seen(once)
    assert len(sink.written) == 2 * len(once.written)


async def test_columns_give_the_output_of_records_also_of_those_that_the_edge_remembers() -> None:
    plain, remembered = Topic(), Topic()
    await deliver(Memory(), plain, LOG)
    recent = RecentEvents()
    for name in ("a", "b"):
        about = event(name)
        recent.add(FLIGHTS, about, about.body(), 0)
    task = RawTask(
        FLIGHTS, 0, prefix="tidemill", store=Memory(), sink=remembered, limiter=DeadLetterLimiter(share=1.0),
        recent=recent,
    )  # fmt: skip
    await task.open()
    columns = as_columns([replace(each, topic=RAW) for each in LOG])
    await task.process({RAW: columns})
    assert len(recent) == 0
    assert [each.framed() for each in remembered.written] == [each.framed() for each in plain.written]


async def test_ids_are_looked_up_again_once_one_of_them_was_known() -> None:
    store, sink = Memory(), Topic()
    task = make(store, sink)
    await task.open()
    batches = [[event(name) for name in names] for names in ("ab", "cd", "ef", "gf", "hi", "ij", "kl")]
    offset, seen_so_far = 0, list[tuple[int, int]]()
    for batch in batches:
        await task.process({RAW: [record(offset + n, each) for n, each in enumerate(batch)]})
        offset += len(batch)
        seen_so_far.append((store.looked, store.unseen))
    # first looked up; then not; known after all: looked up; again; all new: not; known: both; looked up
    assert seen_so_far == [(1, 0), (1, 1), (1, 2), (2, 3), (3, 3), (4, 4), (5, 4)]
    assert store.records == offset
    assert len(sink.written) == len(store.rows) == 12


async def test_a_record_that_is_refused_is_decided_with_look_up() -> None:
    store, sink = Memory(), Topic()
    task = make(store, sink)
    await task.open()
    await task.process({RAW: [record(0, event("a"))]})
    await task.process({RAW: [replace(record(1, event("b")), value=b"{}")]})
    await task.process({RAW: [record(2, event("b"))]})
    assert store.rows["b"].outcome == "applied"
    assert (store.looked, store.unseen) == (3, 1)


@pytest.mark.parametrize("cut", range(len(LOG)))
async def test_a_crash_before_the_decision_or_after_half_of_the_output_changes_nothing(cut: int) -> None:
    store, sink = Memory(), Topic()
    await deliver(store, sink, LOG[:cut])
    for failing in (store, sink):
        failing.fail = 1
        with pytest.raises(Later):
            await deliver(store, sink, LOG)
    await deliver(store, sink, LOG)
    once = Topic()
    await deliver(Memory(), once, LOG)
    assert sorted(seen(sink)) == sorted(seen(once))
    assert store.records == len(LOG)


async def test_after_the_output_is_noted_nothing_is_written_again() -> None:
    store, sink = Memory(), Topic()
    await deliver(store, sink, LOG)
    written = len(sink.written)
    assert (await make(store, sink).open())[RAW] == 7
    await deliver(store, sink, LOG)
    assert len(sink.written) == written


async def test_an_owner_that_was_replaced_is_fenced_and_writes_nothing() -> None:
    store, sink = Memory(), Topic()
    old = make(store, sink)
    await old.open()
    await deliver(store, sink, LOG[:3])
    written = len(sink.written)
    with pytest.raises(Fenced):
        await old.process({RAW: LOG[:5]})
    assert len(sink.written) == written


async def test_ids_that_another_partition_claims_meanwhile_are_looked_up_again() -> None:
    store, sink = Memory(claimed=3), Topic()
    await deliver(store, sink, LOG)
    assert store.records == len(LOG)
    store.claimed = 100
    with pytest.raises(Later):
        await deliver(store, sink, [*LOG, record(7, event("z"))])


async def test_too_many_dead_letters_stop_the_partition_after_the_good_ones() -> None:
    store, sink = Memory(), Topic()
    task = make(store, sink, DeadLetterLimiter(share=1.0, run_length=5))
    await task.open()
    with pytest.raises(Stalled):
        await task.process({RAW: [record(0, event("a")), *(garbage(n) for n in range(1, 20))]})
    assert store.at["flights", 0][0].next == 6
    assert len(sink.written) == 6
