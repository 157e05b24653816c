"""A few keys in memory and the others in the store: what is told and kept is that of no limit, bit for bit."""

import asyncio
from collections.abc import Sequence

from features_cases import END_US, FakeRecord, as_columns, departures, pipeline, source_record, timer_record, views
from features_fakes import FakeStore
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.cold import Wanted, share_of
from tidemill_features.domain.letter import Mail
from tidemill_features.domain.marks import Marks
from tidemill_features.domain.partition import AggregatePartition

HALF_HOUR_US = 1_800_000_000
BY_FLIGHT = views(pipeline(entity="flight", ttl="24h"))["by-carrier"]
"""About thirteen keys in each partition, which die after a day."""
MARKS = Marks(7, {0: 3}, {0: 100}, 50)
Told = list[tuple[bytes | None, bytes | None, bytes]]


class Life:
    """One partition of one view and its store: what is told is what readers see, whoever dies in between."""

    def __init__(self, limit: int | None) -> None:
        self.limit, self.store = limit, FakeStore()
        self.told: list[Told] = []
        self.saving = False
        asyncio.run(self.open())

    async def open(self) -> int:
        """A new process; returns where it reads on."""
        self.owner = await self.store.own(0)
        marks, entries = await self.store.load(self.owner, BY_FLIGHT)
        cold = await self.store.cold(self.owner, BY_FLIGHT)
        self.part = ViewPartition.restored(BY_FLIGHT, 0, marks, entries, cold)
        self.all = AggregatePartition([self.part], lambda: self.limit)
        self.all.start_at(BY_FLIGHT.input_topic, marks.next_offset)
        self.saving = False
        return marks.next_offset

    async def take(self, records: Sequence[FakeRecord]) -> None:
        """A poll; what it changed is told."""
        assert not self.all.read({BY_FLIGHT.input_topic: records})
        wanted = self.part.wanted()
        while wanted is not None:
            wanted = self.part.give(wanted, await self.store.fetch(BY_FLIGHT, 0, wanted))
        assert not self.all.settle()
        letters = Mail([out.letters() for out in self.all.drain()])
        self.told.append(sorted((letter.key, letter.value, repr(letter.headers).encode()) for letter in letters))

    async def checkpoint(self) -> None:
        """Begin a checkpoint; the store has it at once, this process hears of it later."""
        await self.heard()
        captures = self.all.capture()
        await self.store.save(self.owner, [(part.view, capture) for part, capture in captures])
        self.saving = bool(captures)

    async def heard(self) -> None:
        """Hear of a checkpoint."""
        if self.saving:
            self.part.stored()
            self.saving = False

    def digest(self) -> str:
        """Of all keys, cold ones among them."""
        everything = Wanted(sorted(self.store.rows.get(BY_FLIGHT.name, {})))
        self.part.give(everything, asyncio.run(self.store.fetch(BY_FLIGHT, 0, everything)))
        return self.part.state.digest()


Deed = tuple[int, bool, bool, bool, bool]
"""Size of a poll, in columns or one by one; then maybe a checkpoint, maybe its answer, maybe a SIGKILL."""
DEEDS = st.lists(st.tuples(st.integers(1, 30), *(st.booleans(),) * 3, st.sampled_from([False, False, False, True])))


async def live(life: Life, records: Sequence[FakeRecord], deeds: Sequence[Deed]) -> None:
    """Polls until the log ends, in the rhythm of `deeds`."""
    at, turn = 0, 0
    while at < len(records):
        size, as_batch, stores, hears, dies = deeds[turn % len(deeds)] if turn < 60 else (30, True, True, True, False)
        batch = records[at : at + size]
        await life.take(as_columns(batch) if as_batch else batch)
        at, turn = at + len(batch), turn + 1
        if stores:
            await life.checkpoint()
        if hears:
            await life.heard()
        if dies:
            at = await life.open()
        if hears and stores and life.limit is not None:
            assert len(life.part.state) <= life.limit or life.part.state.coldest(99).size <= life.limit


@example(deeds=[(5, True, True, False, False)], limit=2, seed=0, step=20)  # events while a checkpoint is under way
@example(deeds=[(5, False, True, True, False), (9, True, False, False, True)], limit=1, seed=1, step=20)
@example(deeds=[(12, False, True, False, True), (3, True, False, False, False)], limit=3, seed=2, step=60)
@example(deeds=[(4, True, True, True, False)], limit=1, seed=3, step=60)
@settings(max_examples=40)
@given(deeds=DEEDS.filter(bool), limit=st.integers(1, 5), seed=st.integers(0, 99), step=st.sampled_from([1, 20, 60]))
def test_a_limit_of_a_few_keys_is_told_and_kept_as_no_limit(
    deeds: list[Deed], limit: int, seed: int, step: int
) -> None:
    stream = departures(240, seed=seed, step_us=step * HALF_HOUR_US // 20)
    events = stream.by_partition[0]
    records = [source_record(event, n) for n, event in enumerate(events)]
    last = max(event.time_us for event in events)
    records.append(timer_record(last + 24 * HALF_HOUR_US, 0, len(records)))
    plain, bounded = Life(None), Life(limit)
    asyncio.run(live(plain, records, deeds))
    asyncio.run(live(bounded, records, deeds))
    assert bounded.told == plain.told
    assert bounded.digest() == plain.digest()
    assert not plain.part.cold.evicted


async def step(life: Life, records: Sequence[FakeRecord]) -> None:
    await life.take(records)
    await life.checkpoint()
    await life.heard()


def test_cold_keys_that_are_forgotten_are_told_and_dropped_and_their_state_is_not_fetched() -> None:
    life = Life(2)
    records = [source_record(event, n) for n, event in enumerate(departures(120).by_partition[0])]
    asyncio.run(step(life, records))
    names = {key for key, _, _ in life.told[0] if key and not key.startswith(b"\0")}
    assert len(life.part.cold) == len(names) - 2 > 0
    asyncio.run(step(life, [timer_record(END_US + 48 * HALF_HOUR_US, 0, len(records))]))
    assert {key for key, value, _ in life.told[-1] if value is None} == names
    assert (life.part.cold.fetched, len(life.part.cold)) == (0, 0)
    assert not life.store.rows[BY_FLIGHT.name]
    assert not life.store.saved[BY_FLIGHT.name][1]


def test_small_views_keep_their_keys_and_large_ones_share_the_rest() -> None:
    assert share_of([], 10) == 10
    assert share_of([3, 2], 10) == 10
    assert share_of([1, 100, 2, 50], 23) == 10
    assert share_of([7, 7, 7], 5) == 1
