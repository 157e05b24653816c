"""Who takes over tells readers nothing that they know already, and nothing older than that."""

import asyncio

import pytest
from features_cases import END_US, Departure, FakeRecord, source_record
from features_fakes import FakeLog, FakeStore, inputs, task, told, turn
from features_play import body

pytestmark = pytest.mark.anyio


async def crashed_after_its_checkpoint(log: FakeLog, store: FakeStore) -> tuple[str, list[FakeRecord]]:
    """An owner that has stored the first 20 records, told all of them, and is gone."""
    running, (topic, records) = task(log, store), inputs(180)
    await running.open()
    await turn(running, {topic: records[:20]})
    await told(log, lambda: bool(store.saved))
    store.down = True
    await turn(running, {topic: records[20:]})
    await told(log, lambda: END_US in log.watermarks())
    await running.close(lost=True)
    store.down = False
    return topic, records


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_what_is_read_again_after_a_crash_is_not_told_again(size: int) -> None:
    """Else a key's last record would be an old one for a while, and compaction keeps the last one."""
    log, store = FakeLog(), FakeStore()
    topic, records = await crashed_after_its_checkpoint(log, store)
    before = log.vectors()
    again = task(log, store)
    start = (await again.open())[topic]
    assert start == 20
    for at in range(start, len(records), size):
        await turn(again, {topic: records[at : at + size]})
        await asyncio.sleep(0)
        assert log.vectors() == before
    last = source_record(Departure("new", END_US, body("AA"), 0, len(records)), len(records))
    await turn(again, {topic: [last]})
    await again.close(lost=False)
    assert {key for key, value in log.vectors().items() if before.get(key) != value} == {b"F1"}
    assert store.saved["by-flight"][0].next_offset == len(records) + 1


async def test_a_silence_ends_where_the_input_ends_before_what_was_told() -> None:
    log, store, now = FakeLog(), FakeStore(), [0.0]
    topic, records = await crashed_after_its_checkpoint(log, store)
    log.letters = log.letters[-1:]
    again = task(log, store, clock=lambda: now[0])
    await again.open()
    await turn(again, {topic: records[20:30]})
    assert not log.vectors()
    now[0] = 31.0
    await again.idle()
    await told(log, lambda: bool(log.vectors()))
    await again.close(lost=False)
