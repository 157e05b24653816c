"""Records on their way to one partition: together, in order, each with its own offset or the error that it met."""

import asyncio
from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords

from tidemill_ingestion.domain.outgoing import Outgoing
from tidemill_ingestion.kafka.lane import Lane, Part
from tidemill_runtime.batches import Packed

pytestmark = pytest.mark.anyio
LARGE = b"x" * 100_000
"""Two of these fit a batch."""


class Sent:
    def __init__(self, offset: int) -> None:
        self.offset = offset


class Producer:
    """Writes a batch when it is let to."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.batches: list[int] = []
        self.records: list[Any] = []
        self.gate = asyncio.Event()
        self.fail = False

    async def send_batch(self, batch: Packed, _topic: str, *, partition: int) -> "asyncio.Future[Sent]":
        assert partition == 2
        await self.gate.wait()
        done: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        if self.fail:
            done.set_exception(ConnectionError("gone"))
            return done
        done.set_result(Sent(len(self.written)))
        found = list(MemoryRecords(batch._build()).next_batch())
        assert len(found) == batch.record_count()
        self.records += found
        self.written += [record.value for record in found]
        self.batches.append(len(found))
        return done


def part(*values: bytes) -> Part:
    return Part([Outgoing("t", 2, None, value, []) for value in values])


@pytest.fixture
def producer() -> Producer:
    return Producer()


async def test_what_comes_during_a_write_goes_into_the_next_one(producer: Producer) -> None:
    lane = Lane(producer, "t", 2)
    first, *later = parts = [part(b"a"), part(LARGE, b"c"), part(LARGE, LARGE), part(b"f")]
    lane.put(first)
    await asyncio.sleep(0)
    for each in later:
        lane.put(each)
    producer.gate.set()
    assert await asyncio.gather(*(each.done for each in parts)) == [[0], [1, 2], [3, 4], [5]]
    assert producer.written == [b"a", LARGE, b"c", LARGE, LARGE, b"f"]
    assert producer.batches == [1, 3, 2]


async def test_what_is_written_is_read_as_it_was_handed_over(producer: Producer) -> None:
    lane, headers = Lane(producer, "t", 2), [("é", "ü".encode()), ("n", None), ("long", b"y" * 300)]
    given = [
        Outgoing("t", 2, None, None, []), Outgoing("t", 2, b"k" * 100, b"v", headers, 2_000),
        Outgoing("t", 2, b"", b"", [], 1_000), Outgoing("t", 2, b"k", LARGE, headers, 5_000_000_000_000),
    ]  # fmt: skip
    whole = Part([*given, *(each.framed() for each in given)])
    lane.put(whole)
    producer.gate.set()
    assert await whole.done == list(range(8))
    found = [(r.key, r.value, list(r.headers)) for r in producer.records]
    assert found == 2 * [(each.key, each.value, list(each.headers)) for each in given]
    times = [r.timestamp for r in producer.records]
    assert times[1:4] == times[5:8] == [2_000, 1_000, 5_000_000_000_000]
    assert times[0] > 1_700_000_000_000


async def test_a_failure_reaches_those_whose_records_were_in_it_and_the_next_goes_on(producer: Producer) -> None:
    lane, both = Lane(producer, "t", 2), (part(b"a"), part(b"b"))
    producer.gate.set()
    producer.fail = True
    for each in both:
        lane.put(each)
    for each in both:
        with pytest.raises(ConnectionError):
            await each.done
    producer.fail = False
    again = part(b"c")
    lane.put(again)
    assert await again.done == [0]


async def test_only_what_was_not_handed_over_can_be_taken_back(producer: Producer) -> None:
    lane, under_way, waiting = Lane(producer, "t", 2), part(b"a"), part(b"b")
    lane.put(under_way)
    await asyncio.sleep(0)
    lane.put(waiting)
    assert not lane.drop(under_way)
    assert lane.drop(waiting)
    assert waiting.done.cancelled()
    producer.gate.set()
    assert await under_way.done == [0]
    assert producer.written == [b"a"]
