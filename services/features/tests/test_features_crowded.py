"""With far more keys in memory than there is room for, a checkpoint comes early, and then the reading waits for it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from features_cases import FakeRecord, departures, source_record, views
from features_fakes import FakeLog, FakeStore, task, turn
from features_stack import until

from tidemill_features.domain.marks import Capture
from tidemill_features.domain.segments import Owner
from tidemill_features.domain.views import View
from tidemill_features.handlers import tell
from tidemill_features.handlers.aggregate import AggregateTask

pytestmark = pytest.mark.anyio
VIEW = views()["by-flight"]
ROOM, NEVER_S = 100, 1e9
"""Keys; a thousand more are crowded, two thousand more hold the reading up. No checkpoint is due by time."""


@dataclass
class GatedStore(FakeStore):
    """Stores nothing before the gate is open."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    begun: int = 0

    async def save(self, owner: Owner, captures: Sequence[tuple[View, Capture]]) -> None:
        self.begun += 1
        await self.gate.wait()
        await super().save(owner, captures)


def newcomers(count: int) -> list[FakeRecord]:
    """Events of one key each, so close to each other that no pane ends."""
    events = departures(4 * count, step_us=1).by_partition[0][:count]
    assert len(events) == count
    return [source_record(replace(e, body=e.body | {"flight": f"N{n}"}), n) for n, e in enumerate(events)]


async def undisturbed(records: Sequence[FakeRecord]) -> dict[bytes, bytes | None]:
    log = FakeLog()
    running = task(log, FakeStore())
    await running.open()
    await turn(running, {VIEW.input_topic: records})
    await running.close(lost=False)
    return log.vectors()


def held(running: AggregateTask) -> int:
    return len(running.state.views[0].state)


async def test_crowded_memory_calls_for_a_checkpoint_and_then_holds_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tell, "_RELIEF_S", 600.0)
    log, store, records = FakeLog(), GatedStore(), newcomers(3_100)
    running = task(log, store, every_s=NEVER_S, room=lambda: ROOM)
    await running.open()
    await turn(running, {VIEW.input_topic: records[:900]})
    await until(lambda: len(log.vectors()) == 900, "the first are told")
    assert not store.begun

    await turn(running, {VIEW.input_topic: records[900:1_600]})
    await until(lambda: store.begun == 1, "a checkpoint that no time asked for")
    waiting = asyncio.ensure_future(running.process({VIEW.input_topic: records[1_600:]}))
    await until(lambda: len(log.vectors()) == 3_100, "the telling goes on")
    assert held(running) == 3_100
    assert not waiting.done()

    store.gate.set()
    await waiting
    assert held(running) <= 3_100 - (1_600 - ROOM)

    async def is_small() -> bool:
        await running.idle()
        return held(running) <= ROOM

    await until(is_small, "the others have left, too")
    assert len(running.state.views[0].cold) + held(running) == 3_100
    await running.close(lost=False)
    assert log.vectors() == await undisturbed(records)


async def test_the_reading_does_not_wait_for_ever_for_a_store_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tell, "_RELIEF_S", 0.05)
    log, store, records = FakeLog(), GatedStore(), newcomers(2_500)
    running = task(log, store, every_s=NEVER_S, room=lambda: ROOM)
    await running.open()
    await turn(running, {VIEW.input_topic: records})
    assert held(running) == 2_500
    await running.close(lost=True)
