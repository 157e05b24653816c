"""Records on their way to one partition: together, in order, each with its own offset or the error that it met."""

import asyncio

import pytest

from tidemill_ingestion.domain.outgoing import Outgoing
from tidemill_ingestion.kafka.lane import Lane, Part

pytestmark = pytest.mark.anyio
ROOM = 3


class Batch:
    """Takes three records."""

    def __init__(self) -> None:
        self.values: list[bytes] = []

    def append(self, *, value: bytes, **_: object) -> object:
        if len(self.values) == ROOM:
            return None
        self.values.append(value)
        return object()


class Sent:
    def __init__(self, offset: int) -> None:
        self.offset = offset


class Producer:
    """Writes a batch when it is let to."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.fail = False

    def create_batch(self) -> Batch:
        return Batch()

    async def send_batch(self, batch: Batch, _topic: str, *, partition: int) -> "asyncio.Future[Sent]":
        assert partition == 2
        await self.gate.wait()
        done: asyncio.Future[Sent] = asyncio.get_running_loop().create_future()
        if self.fail:
            done.set_exception(ConnectionError("gone"))
            return done
        done.set_result(Sent(len(self.written)))
        self.written += batch.values
        self.batches.append(len(batch.values))
        return done


def part(*values: bytes) -> Part:
    return Part([Outgoing("t", 2, None, value, []) for value in values])


@pytest.fixture
def producer() -> Producer:
    return Producer()


async def test_what_comes_during_a_write_goes_into_the_next_one(producer: Producer) -> None:
    lane = Lane(producer, "t", 2)
    first, *later = parts = [part(b"a"), part(b"b", b"c"), part(b"d", b"e"), part(b"f")]
    lane.put(first)
    await asyncio.sleep(0)
    for each in later:
        lane.put(each)
    producer.gate.set()
    assert await asyncio.gather(*(each.done for each in parts)) == [[0], [1, 2], [3, 4], [5]]
    assert producer.written == [b"a", b"b", b"c", b"d", b"e", b"f"]
    assert producer.batches == [1, 3, 2]


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
