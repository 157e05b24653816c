"""The tasks with everything around them faked: what is told before what is stored, and what a failure leaves behind."""

import asyncio
import json
import math

import pytest
from features_cases import END_US, PARTITIONS, START_US, Departure, FakeRecord, source_record, views
from features_fakes import FakeLog, FakeStore, FakeUndertaker, inputs, task, told, turn
from features_play import body, rows_of, section_of
from features_stack import until

from tidemill_contracts.envelope import read_envelope
from tidemill_contracts.events import FeatureVector, Watermark
from tidemill_features.domain.encode import WATERMARK_KEY, Encoder
from tidemill_features.domain.route import RouteMarks
from tidemill_features.handlers import aggregate
from tidemill_features.handlers.aggregate import AggregateTask
from tidemill_features.handlers.route import RouteTask
from tidemill_runtime.errors import Fenced, Later

pytestmark = pytest.mark.anyio


async def test_each_batch_delivered_twice_is_told_once() -> None:
    log, store = FakeLog(), FakeStore()
    running = task(log, store)
    topic, records = inputs()
    assert await running.open() == {topic: 0}
    for batch in (records[:10], records[:10], records[10:], records[10:]):
        await turn(running, {topic: batch})
    await running.close(lost=False)
    vectors = [FeatureVector.read(letter.value or b"") for letter in log.letters if letter.key != WATERMARK_KEY]
    assert len({(vector.entity, vector.revision) for vector in vectors}) == len(vectors)
    assert log.opened == 0
    assert store.saved["by-flight"][0].next_offset == len(records)
    assert store.saved["by-flight"][0].watermark_us == END_US


async def test_nothing_is_stored_before_it_was_told() -> None:
    log, store = FakeLog(held=asyncio.Event()), FakeStore()
    running = task(log, store)
    topic, records = inputs()
    await running.open()
    await turn(running, {topic: records})
    await asyncio.sleep(0)
    assert store.attempts == 0
    assert log.held is not None
    log.held.set()
    await told(log, lambda: bool(store.saved))
    assert log.vectors()
    await running.close(lost=True)


@pytest.mark.parametrize("error", [Later("no answer"), Fenced("a successor")])
async def test_a_write_that_fails_ends_the_task_and_the_next_one_tells_the_same(error: Exception) -> None:
    log, store = FakeLog(fail=error), FakeStore()
    running = task(log, store)
    topic, records = inputs()
    await running.open()
    await running.process({topic: records})
    with pytest.raises(type(error)):
        await idle_for_ever(running)
    await running.close(lost=True)
    assert store.saved == {}
    log.fail = None
    again = task(log, store)
    assert await again.open() == {topic: 0}
    await turn(again, {topic: records})
    await again.close(lost=False)
    undisturbed = FakeLog()
    other = task(undisturbed, FakeStore())
    await other.open()
    await turn(other, {topic: records})
    await other.close(lost=False)
    assert log.vectors() == undisturbed.vectors()


async def idle_for_ever(running: AggregateTask) -> None:
    async with asyncio.timeout(10):
        while True:
            await running.idle()
            await asyncio.sleep(0)


async def test_with_the_store_down_readers_are_told_and_the_checkpoint_comes_later() -> None:
    log, store = FakeLog(), FakeStore(down=True)
    running = task(log, store)
    topic, records = inputs()
    await running.open()
    await turn(running, {topic: records[:20]})
    await told(log, lambda: store.attempts > 0)
    await turn(running, {topic: records[20:]})
    await told(log, lambda: END_US in log.watermarks())
    assert store.saved == {}
    store.down = False
    await running.close(lost=False)
    assert store.saved["by-flight"][0].next_offset == len(records)


async def test_an_owner_that_was_replaced_stops_at_its_next_checkpoint() -> None:
    log, store = FakeLog(), FakeStore()
    running = task(log, store)
    topic, records = inputs()
    await running.open()
    await store.own(0)
    await turn(running, {topic: records})
    with pytest.raises(Fenced):
        await idle_for_ever(running)
    await running.close(lost=True)
    assert store.saved == {}


async def test_rejected_records_go_out_with_the_vectors() -> None:
    log = FakeLog()
    running = task(log, FakeStore())
    topic, records = inputs(9)
    await running.open()
    await turn(running, {topic: [FakeRecord(b"garbage", []), *records]})
    await running.close(lost=False)
    assert [letter.value for letter in log.letters if letter.topic == "dlq"] == [b"garbage"]
    assert log.vectors()


async def told_in(*parts: slice, monkeypatch: pytest.MonkeyPatch | None = None) -> FakeLog:
    """What is told when the first part is on its way while the others come."""
    if monkeypatch is not None:
        monkeypatch.setattr(aggregate, "_MOST_WAITING", 0)
    log, store = FakeLog(held=asyncio.Event()), FakeStore()
    assert log.held is not None
    running = task(log, store)
    topic, records = inputs()
    huge = source_record(Departure("huge", START_US, body("AA", 1e300), 0, 10**6), len(records))
    records.append(huge)
    await running.open()
    for n, part in enumerate(parts):
        await turn(running, {topic: records[part]})
        if n == 0:
            await until(lambda: log.waiting == 1, "the first is being told", deadline_s=10)
        else:
            assert (running.state.waiting() > 0) == (monkeypatch is None)
            (part_of,) = running.state.views
            assert (part_of.applied != part_of.seqs) == (monkeypatch is None), "the status says what is in the state"
    log.held.set()
    await running.close(lost=False)
    assert [letter.value for letter in log.letters if letter.topic == "dlq"] == [huge.value]
    assert store.saved["by-flight"][0].next_offset == len(records)
    return log


async def test_what_is_read_while_readers_are_told_is_applied_and_told_with_the_next() -> None:
    log = await told_in(slice(20), slice(20, 40), slice(40, None))
    undisturbed = await told_in(slice(None))
    assert log.vectors() == undisturbed.vectors()
    assert log.watermarks()[-1] == undisturbed.watermarks()[-1] == END_US
    assert log.writes == 2


async def test_not_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    log = await told_in(slice(20), slice(20, 40), slice(40, None), monkeypatch=monkeypatch)
    assert log.vectors() == (await told_in(slice(None))).vectors()


def route_task(log: FakeLog, store: FakeStore) -> RouteTask:
    return RouteTask(
        0, [views()["by-carrier"]], log=log, store=store, undertaker=FakeUndertaker(),
        partitioner=lambda key, partitions: len(key) % partitions,
    )  # fmt: skip


def routed(log: FakeLog) -> list[int]:
    view = views()["by-carrier"]
    return [item.seq for letter in log.letters for item in rows_of(section_of(letter.value or b"", view)[1])]


async def test_rows_are_routed_once_and_again_after_a_crash() -> None:
    log, store = FakeLog(), FakeStore()
    running = route_task(log, store)
    _, records = inputs()
    topic = views()["by-carrier"].source_topic
    assert await running.open() == {topic: 0}
    for batch in (records[:10], records[:10], records[10:], records[10:]):
        await running.process({topic: batch})
        await running.idle()
    rows = routed(log)
    assert len(set(rows)) == len(rows) > 10
    await running.close(lost=True)
    assert store.routes == {}
    again = route_task(log, store)
    await again.open()
    await again.process({topic: records})
    await again.close(lost=False)
    assert sorted(routed(log)) == sorted(rows + rows)
    assert store.routes == {"by-carrier/0": RouteMarks(len(records), len(records) - 2, END_US)}


async def test_rows_that_are_not_acknowledged_end_the_task() -> None:
    running = route_task(FakeLog(fail=Later("no answer")), FakeStore())
    _, records = inputs()
    await running.open()
    with pytest.raises(Later):
        await running.process({views()["by-carrier"].source_topic: records})


async def test_a_vector_is_exactly_the_contract() -> None:
    values = [1.0, 0.1, -0.0, 1e300, 5e-324, math.nan, 1 / 3]
    encoder = Encoder("v", "0123456789abcdef", topic="t", partition=0)
    output = encoder.vector('é"x'.encode(), (START_US, 7), values, {1: 2, 0: 9}, b"00-x")
    model = FeatureVector(
        view="v", version="0123456789abcdef", entity='é"x', at_us=START_US, revision=7,
        values=[None if math.isnan(value) else value for value in values], positions={"1": 2, "0": 9},
    )  # fmt: skip
    assert FeatureVector.read(output.value or b"") == model
    assert json.loads(output.value or b"") == json.loads(model.model_dump_json())
    assert list(json.loads(output.value or b"")) == list(FeatureVector.model_fields)
    envelope = read_envelope(output.headers, output.value)
    assert (envelope.type, envelope.time_us, envelope.traceparent) == (FeatureVector.TYPE, START_US, "00-x")


async def test_a_watermark_is_exactly_the_contract() -> None:
    output = Encoder("v", "0", topic="t", partition=2).watermark(START_US, dict.fromkeys(range(PARTITIONS), 5))
    positions = {"0": 5, "1": 5, "2": 5}
    expected = Watermark(view="v", partition=2, watermark_us=START_US, positions=positions)
    assert Watermark.read(output.value or b"") == expected
    assert output.key == WATERMARK_KEY
    assert read_envelope(output.headers, output.value).type == Watermark.TYPE
