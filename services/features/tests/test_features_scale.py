"""One to four processes and back while events flow: nobody notices but by short silences."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path

import pytest
from features_cases import HOUR_US, START_US, Stream, departures, views
from features_history import History, following
from features_stack import Process, Stack, open_stack, say, until
from features_verdict import check_everything

PARTITIONS = 4
EVENTS = 60_000
UNTIL_US = START_US + EVENTS * 1_000_000 + HOUR_US
pytestmark = [pytest.mark.anyio, pytest.mark.chaos]


@pytest.fixture
async def stack(kafka_bootstrap: str, postgres_dsn: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    prefix = f"n-{topic_prefix[-8:]}"
    async with open_stack(kafka_bootstrap, postgres_dsn, prefix, tmp_path, partitions=PARTITIONS) as opened:
        opened.environment = {"TIDEMILL_CHECKPOINT_EVERY_S": "0.5", "TIDEMILL_SESSION_TIMEOUT_MS": "6000"}
        yield opened


async def flow(stack: Stack, stream: Stream, moves: "Moves") -> None:
    """Events at a steady pace for as long as somebody comes and goes, then the rest at once."""
    at, longest = 0, max(map(len, stream.by_partition.values()))
    while at < longest:
        size = max(1, (longest - at) // 1000)  # so that it lasts for minutes, however slow the machine is
        end = longest if moves.over else at + size  # asked once: it may be over by the time these are sent
        await stack.send_events(stream, part=slice(at, end))
        at = end
        await asyncio.sleep(0.05)
    await stack.send_events(Stream({p: [] for p in stream.by_partition}), until_us=UNTIL_US)


class Moves:
    """Who runs when, and how long the slowest partition was silent for it."""

    def __init__(self, stack: Stack, found: dict[str, History]) -> None:
        self.stack, self.found, self.over = stack, found, False
        self.running: dict[str, Process] = {}

    async def owned(self) -> dict[str, set[int]]:
        """Partitions by process, as it says itself."""
        found = {}
        for name, process in self.running.items():
            status = (await process.get("/v1/status")).json()
            found[name] = {part["partition"] for view in status["views"] for part in view["partitions"]}
        return found

    async def settled(self, what: str) -> None:
        """Each partition has one owner, each process its share, and every partition tells again."""
        began = asyncio.get_running_loop().time()

        async def shared() -> bool:
            parts = list((await self.owned()).values())
            return sorted(p for each in parts for p in each) == list(range(PARTITIONS)) and all(parts)

        await until(shared, f"{what}: one owner for each partition", deadline_s=60)
        events = {name: history.events for name, history in self.found.items()}
        now = asyncio.get_running_loop().time()
        await until(
            lambda: all(min(h.arrived.values()) > now and h.events > events[n] for n, h in self.found.items()),
            f"{what}: every partition tells",
            deadline_s=60,
        )
        silent = max((s for h in self.found.values() for s, _, at in h.silences if at > began), default=0.0)
        say(f"{what}: settled after {asyncio.get_running_loop().time() - began:.1f} s, silence {silent:.2f} s")

    async def start(self, name: str) -> None:
        self.running[name] = self.stack.start(name)
        await self.running[name].ready()
        await self.settled(f"{name} joins {len(self.running) - 1}")

    async def stop(self, name: str) -> None:
        assert await asyncio.to_thread(self.running.pop(name).stop) == 0
        await self.settled(f"{name} leaves {len(self.running)}")

    async def kill(self, name: str) -> None:
        self.running.pop(name).kill()
        await self.settled(f"{name} is killed beside {len(self.running)}")


@pytest.mark.timeout(400)
async def test_from_one_process_to_four_and_back_under_load(stack: Stack) -> None:
    stream = departures(EVENTS, partitions=PARTITIONS, step_us=1_000_000)
    async with following(stack.settings, views(stack.spec).values()) as found:
        moves = Moves(stack, found)
        try:
            await there_and_back(moves, flow(stack, stream, moves))
            done = lambda: all(h.is_settled(UNTIL_US, PARTITIONS) for h in found.values())  # noqa: E731
            await until(done, "every replica has seen the end")
            assert await asyncio.to_thread(moves.running.pop("0").stop) == 0
        finally:
            for process in moves.running.values():
                process.kill()
        checked = await check_everything(stack, stream, found, UNTIL_US)
        say(f"{checked:,} vectors are those of the undisturbed run")


async def there_and_back(moves: Moves, events: Coroutine[None, None, None]) -> None:
    moves.running["0"] = moves.stack.start("0")
    await moves.running["0"].ready()
    sending = asyncio.ensure_future(events)
    try:
        for name in ("1", "2", "3"):
            await moves.start(name)
        await moves.kill("2")
        await moves.start("2")
        for name in ("3", "1", "2"):
            await moves.stop(name)
        moves.over = True
        await sending
    finally:
        sending.cancel()
