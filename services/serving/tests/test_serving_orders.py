"""What bulk does with records when it cannot answer: holds them, all of them, and loses none."""

import asyncio
import json
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from serving_cases import T0_US, inputs
from serving_edge import SPEC, Edge

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import PredictionRequested
from tidemill_serving.domain.body import OVERLOADED, RefusedError
from tidemill_serving.domain.requests import PART
from tidemill_serving.handlers.bulk import IDLE_ROWS, Bulk
from tidemill_serving.handlers.journal import Journal

pytestmark = pytest.mark.anyio


def record(offset: int, **fields: object) -> ConsumerRecord:
    body = {"inputs": inputs(flight=f"F-{offset}"), **fields}
    data = json.dumps({name: value for name, value in body.items() if value is not None}).encode()
    headers = Envelope(str(offset), PredictionRequested.TYPE, "test", T0_US, data).headers()
    return ConsumerRecord("tidemill.requests.flights.v1", 0, offset, 0, 0, b"k", data, None, 1, len(data), headers)


class World:
    """Bulk over an edge in memory."""

    def __init__(self) -> None:
        self.edge, self.is_full = Edge(), False
        journal = Journal(self.edge.house, self.edge.log, "test", lambda: None, lambda: 1)
        self.bulk = Bulk(self.edge.batcher, journal, "group", lambda: self.is_full)

    async def take(self, *records: ConsumerRecord) -> int:
        return await self.bulk.take(SPEC.name, list(records))

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.edge.log.entries]


async def test_what_cannot_be_answered_now_is_held() -> None:
    world = World()
    assert await world.take(record(0)) == 0  # no release yet
    world.edge.release()
    world.edge.desk.is_ready = False
    assert await world.take(record(0)) == 0
    world.edge.desk.is_ready, world.is_full = True, True
    assert await world.take(record(0)) == 0
    assert world.edge.house.bulk[SPEC.name].is_held
    world.is_full = False
    assert await world.bulk.take("unknown", [record(0)]) == 0
    assert world.kinds() == []
    assert await world.take(record(0)) == 1
    assert world.kinds() == ["prediction"]
    assert not world.edge.house.bulk[SPEC.name].is_held


async def test_a_log_that_takes_nothing_holds_records_and_their_letters() -> None:
    world = World()
    world.edge.release()
    world.edge.log.is_full = True
    assert await world.take(record(0), record(1, inputs={})) == 0
    assert await world.take(record(1, inputs={})) == 0
    world.edge.log.is_full = False
    assert await world.take(record(0), record(1, inputs={}), record(0)) == 3
    assert world.kinds() == ["prediction", "letter"]  # what comes again has no second record


async def test_what_may_be_answered_later_is_no_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.edge.release()
    later = RefusedError(503, "the prediction log is full")

    async def some(_: object, queries: list[Any]) -> list[Any]:
        return [b"{}", later, b"{}"][: len(queries)]

    with monkeypatch.context() as patched:
        patched.setattr(world.edge.batcher, "answer", some)
        assert await world.take(record(0), record(1), record(2)) == 1  # up to it, and it comes again
    assert world.kinds() == []


async def test_no_room_in_a_tick_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.edge.release()

    async def full(*_: object) -> list[Any]:
        raise OVERLOADED

    with monkeypatch.context() as patched:
        patched.setattr(world.edge.batcher, "answer", full)
        assert await world.take(record(0)) == 0
    assert await world.take(*(record(offset) for offset in range(IDLE_ROWS + 10))) == IDLE_ROWS
    many = record(1000, inputs=None, instances=[{"inputs": inputs(flight=f"M-{n}")} for n in range(200)])
    assert await world.take(many) == 1
    assert len(world.kinds()) == IDLE_ROWS + 200


async def test_others_have_their_turns_while_a_long_record_is_read() -> None:
    """A thousand instances are read some at a time, before the first of them is answered."""
    world, turns = World(), 0
    world.edge.release()
    many = [{"id": f"i-{n}", "inputs": inputs(flight=f"F-{n}")} for n in range(1000)]
    taking = asyncio.ensure_future(world.take(record(0, inputs=None, instances=many)))
    while not world.kinds():
        await asyncio.sleep(0)
        turns += 1
    assert await taking == 1
    assert turns > 1000 // PART
    assert world.kinds() == ["prediction"] * 1000


async def test_a_fault_far_down_in_a_long_record_is_named() -> None:
    world = World()
    world.edge.release()
    many: list[dict[str, Any]] = [{"id": f"i-{n}", "inputs": inputs(flight=f"F-{n}")} for n in range(100)]
    many[70]["inputs"]["flight"] = 7
    assert await world.take(record(0, inputs=None, instances=many), record(1)) == 2
    assert world.kinds() == ["prediction", "letter"]
    letter = world.edge.log.entries[-1]
    assert b"instances.70.inputs.flight" in dict(letter.headers)["tm_dlq_error"]
