"""What bulk does with records when it cannot answer: holds them, all of them, and loses none."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from aiokafka.record.memory_records import MemoryRecords
from serving_cases import T0_US, inputs
from serving_edge import SPEC, Edge

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import PredictionRequested, Watermark
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.topics import topic
from tidemill_runtime.errors import Later
from tidemill_runtime.group import Outgoing
from tidemill_serving.domain.body import OVERLOADED, RefusedError
from tidemill_serving.domain.entries import LogRefusedError
from tidemill_serving.domain.replica import WATERMARK_KEY
from tidemill_serving.domain.requests import PART
from tidemill_serving.handlers import bulk as bulk_module
from tidemill_serving.handlers.bulk import IDLE_ROWS, Bulk
from tidemill_serving.spool import Ordered, Spool

pytestmark = pytest.mark.anyio
ANSWERS = topic("predictions", SPEC.name)


def record(offset: int, **fields: object) -> ConsumerRecord:
    body = {"inputs": inputs(flight=f"F-{offset}"), **fields}
    data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    headers = Envelope(str(offset), PredictionRequested.TYPE, "test", T0_US, data).headers()
    return ConsumerRecord("tidemill.requests.flights.v1", 0, offset, 0, 0, b"k", data, None, 1, len(data), headers)


class World:
    """Bulk over an edge with a log on the disk. `sent` is what Kafka has: topic and headers."""

    def __init__(self, folder: Path) -> None:
        self.edge, self.spool, self.is_full = Edge(), Spool(folder), False
        self.spool.open()
        self.edge.batcher._spool = self.spool
        self.bulk = Bulk(
            self.edge.house, self.edge.batcher, Ordered(self.spool), group="group", is_full=lambda: self.is_full
        )
        self.sent, self.offset, self.loses = list[tuple[str, dict[str, bytes]]](), 0, False

    async def take(self, *records: ConsumerRecord) -> int:
        return await self.bulk.take(SPEC.name, list(records), self.commit)

    async def commit(self, outgoing: Sequence[Outgoing], offset: int) -> None:
        """As the transaction of a partition."""
        if self.loses:
            raise Later("nothing was committed")
        self.offset = offset
        for one in outgoing:
            batch = MemoryRecords(one.batch._build()).next_batch()
            assert batch is not None
            self.sent += [(one.topic, dict(found.headers)) for found in batch]

    def kinds(self) -> list[str]:
        """Of what was sent."""
        return ["prediction" if name == ANSWERS else "letter" for name, _ in self.sent]

    def names(self) -> list[str]:
        """Ids of the answers that were sent."""
        return [headers["ce_id"].decode() for name, headers in self.sent if name == ANSWERS]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.spool.close()


def refusing(*_: object) -> int:
    raise LogRefusedError("full")


async def test_what_cannot_be_answered_now_is_held(world: World) -> None:
    assert await world.take(record(0)) == 0  # no release yet
    world.edge.release()
    world.edge.desk.is_ready = False
    assert await world.take(record(0)) == 0
    world.edge.desk.is_ready, world.is_full = True, True
    assert await world.take(record(0)) == 0
    assert world.edge.house.bulk[SPEC.name].is_held
    world.is_full = False
    assert await world.bulk.take("unknown", [record(0)], world.commit) == 0
    assert world.kinds() == []
    assert await world.take(record(0)) == 1
    assert world.kinds() == ["prediction"]
    assert not world.edge.house.bulk[SPEC.name].is_held


async def test_a_log_that_takes_nothing_holds_records_and_their_letters(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.edge.release()
    with monkeypatch.context() as patched:
        patched.setattr(world.spool, "append", refusing)
        assert await world.take(record(0), record(1, inputs={})) == 0
    assert (world.sent, world.offset) == ([], 0)
    assert await world.take(record(0), record(1, inputs={}), record(2, inputs=inputs(flight="F-0"), id="twice")) == 3
    assert world.kinds() == ["prediction", "prediction", "letter"]
    assert world.offset == 3


async def test_an_answer_names_its_request_and_has_no_second_record(world: World) -> None:
    world.edge.release()
    assert await world.take(record(4, id="a"), record(5, id="a", inputs=inputs(flight="F-4"))) == 2
    assert await world.take(record(6, id="a", inputs=inputs(flight="F-4"))) == 1  # sent again by who sent it
    ((name, headers),) = world.sent
    assert (name, world.offset) == (ANSWERS, 7)
    assert headers["tm_origin"] == b"0:4:0"
    assert headers["ce_causationid"] == b"4"
    assert headers["ce_id"].decode() == str(prediction_id(SPEC.name, "a"))


async def test_what_was_not_committed_is_answered_anew_when_its_record_comes_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.edge.release()
    world.loses = True
    with pytest.raises(Later):
        await world.take(record(0, id="a"), record(1, id="b"))
    world.loses = False
    with monkeypatch.context() as patched:  # and known as it is, it counts as answered only once it is in the log again
        patched.setattr(world.spool, "append", refusing)
        assert await world.take(record(0, id="a")) == 0
    assert await world.take(record(0, id="a"), record(1, id="b"), record(2, id="a", inputs=inputs(flight="F-0"))) == 3
    assert world.names() == [str(prediction_id(SPEC.name, name)) for name in "ab"]


async def test_a_slice_of_which_some_must_wait_leaves_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What of it is in the log already is not sent: its offsets are not committed, so it will be answered again."""
    world.edge.release()
    answer, calls = world.edge.batcher.answer, 0

    async def the_third_is_refused(*arguments: Any) -> list[Any]:  # noqa: ANN401 - as the batcher's
        nonlocal calls
        calls += 1
        if calls == 3:
            raise OVERLOADED
        return await answer(*arguments)

    many = record(1, inputs=None, instances=[{"inputs": inputs(flight=f"M-{n}")} for n in range(200)])
    with monkeypatch.context() as patched:
        patched.setattr(world.edge.batcher, "answer", the_third_is_refused)
        assert await world.take(*(record(0, id=f"a-{n}") for n in range(IDLE_ROWS)), many) == IDLE_ROWS
    assert len(world.names()) == IDLE_ROWS
    assert await world.take(many) == 1
    assert len(set(world.names())) == len(world.names()) == IDLE_ROWS + 200


async def test_what_may_be_answered_later_is_no_letter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.edge.release()
    later = RefusedError(503, "the prediction log is full")

    async def some(_: object, queries: list[Any]) -> list[Any]:
        return [b"{}", later, b"{}"][: len(queries)]

    with monkeypatch.context() as patched:
        patched.setattr(world.edge.batcher, "answer", some)
        assert await world.take(record(0), record(1), record(2)) == 0
    assert world.kinds() == []


async def test_slices_go_to_kafka_together_for_a_while(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.edge.release()
    many = [record(offset) for offset in range(3 * IDLE_ROWS)]
    with monkeypatch.context() as patched:
        patched.setattr(bulk_module, "TOGETHER_S", 60.0)
        assert await world.take(*many) == len(many)
    with monkeypatch.context() as patched:
        patched.setattr(bulk_module, "TOGETHER_S", 0.0)
        assert await world.take(*(record(offset) for offset in range(1000, 1100))) == IDLE_ROWS
    assert len(set(world.names())) == len(world.names()) == 4 * IDLE_ROWS


async def test_the_log_says_nothing_of_its_progress_while_answers_are_on_their_way(world: World) -> None:
    """Who reads that nothing older follows would take the answers behind it for late."""
    world.edge.release()
    seen = list[int]()
    committed, write = world.commit, world.edge.batcher._timers._write_all

    async def slow(outgoing: Sequence[Outgoing], offset: int) -> None:
        write()
        seen.append(timers(world))
        await committed(outgoing, offset)

    for place in world.edge.desk.places:
        mark = Watermark(view=place[0], partition=0, watermark_us=2_000_000_000_000_000).model_dump_json().encode()
        world.edge.house.replica.apply(place, 0, WATERMARK_KEY, mark)
    assert await world.bulk.take(SPEC.name, [record(0)], slow) == 1
    assert seen == [0]
    assert timers(world) == SPEC.partitions


def timers(world: World) -> int:
    """How many are in the log."""
    found = 0
    for segment in world.spool.segments:
        found += sum(entry.kind == "timer" for _, entry, _ in segment.entries(segment.first, segment.start))
    return found


async def test_others_have_their_turns_while_a_long_record_is_read(world: World) -> None:
    """A thousand instances are read some at a time, before the first of them is answered."""
    turns = 0
    world.edge.release()
    many = [{"id": f"i-{n}", "inputs": inputs(flight=f"F-{n}")} for n in range(1000)]
    taking = asyncio.ensure_future(world.take(record(0, inputs=None, instances=many)))
    while world.spool.end == 0:
        await asyncio.sleep(0)
        turns += 1
    assert await taking == 1
    assert turns > 1000 // PART
    assert world.kinds() == ["prediction"] * 1000


async def test_a_fault_far_down_in_a_long_record_is_named(world: World) -> None:
    world.edge.release()
    many: list[dict[str, Any]] = [{"id": f"i-{n}", "inputs": inputs(flight=f"F-{n}")} for n in range(100)]
    many[70]["inputs"]["flight"] = 7
    assert await world.take(record(0, inputs=None, instances=many), record(1)) == 2
    assert world.kinds() == ["prediction", "letter"]
    assert b"instances.70.inputs.flight" in world.sent[-1][1]["tm_dlq_error"]
