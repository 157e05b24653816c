"""A partition that nobody writes to follows the others, by a record in its log."""

from collections.abc import Mapping, Sequence

import pytest
from ingestion_cases import FLIGHTS, HOUR, NOON, Rec

from tidemill_ingestion.domain.outgoing import Outgoing
from tidemill_ingestion.domain.readings import Progress, read
from tidemill_ingestion.domain.source import Source
from tidemill_ingestion.handlers import IdleClock

pytestmark = pytest.mark.anyio
IDLE = Source.compile("flights", FLIGHTS.spec.model_copy(update={"idle_timeout": 10_000_000}), 3)


class World:
    """Stored watermarks, a sink and a clock."""

    def __init__(self, marks: dict[int, int | None]) -> None:
        self.marks, self.now, self.written = marks, 100.0, list[Outgoing]()

    async def watermarks(self, source: str) -> Mapping[int, int | None]:
        assert source == "flights"
        return self.marks

    async def write(self, records: Sequence[Outgoing]) -> None:
        self.written += records

    def clock(self, source: Source = IDLE) -> IdleClock:
        return IdleClock(source, 1, prefix="tidemill", store=self, sink=self, clock=lambda: self.now)


def times(world: World) -> list[int]:
    found = [read(IDLE, Rec(0, out.value, list(out.headers))) for out in world.written]  # type: ignore[arg-type]  # ours
    return [reading.time_us for reading in found if isinstance(reading, Progress)]


async def test_after_the_timeout_it_follows_the_slowest_of_those_ahead() -> None:
    world = World({0: NOON + HOUR, 1: None, 2: NOON})
    idle = world.clock()
    for now in (100.0, 109.9):
        world.now = now
        await idle.check()
    assert world.written == []
    world.now = 110.0
    await idle.check()
    assert (times(world), world.written[0].partition, world.written[0].key) == ([NOON], 1, None)
    world.marks[1], world.now = NOON, 111.0
    await idle.check()
    world.marks[1], world.now = NOON + HOUR, 112.0
    await idle.check()
    assert times(world) == [NOON, NOON + HOUR]


async def test_an_event_makes_it_wait_again() -> None:
    world = World({0: NOON, 1: None})
    idle = world.clock()
    world.now = 109.0
    idle.busy()
    world.now = 118.0
    await idle.check()
    assert world.written == []


async def test_without_a_declared_timeout_no_clock_speaks() -> None:
    world = World({0: NOON, 1: None})
    idle = world.clock(FLIGHTS)
    world.now = 1e6
    await idle.check()
    assert world.written == []
