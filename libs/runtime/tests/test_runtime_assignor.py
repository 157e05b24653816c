"""Who owns which partition number, and how soon somebody else does."""

import asyncio
from collections.abc import Callable

import pytest
from aiokafka.cluster import ClusterMetadata

from tidemill_contracts.topics import TopicSpec
from tidemill_runtime.assignor import NumberAssignor
from tidemill_runtime.errors import Later
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.settings import ServiceSettings
from tidemill_runtime.stream import StreamRunner
from tidemill_testkit.waiting import until

WIDE, NARROW = 6, 3


class Cluster(ClusterMetadata):  # type: ignore[misc]  # aiokafka ships no types
    """Two topics that differ in width."""

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        return {"wide": set(range(WIDE)), "narrow": set(range(NARROW))}.get(topic)


@pytest.mark.parametrize("members", [1, 2, 3, 4, 5, 6, 7])
def test_a_number_has_one_member_whatever_the_topics_have(members: int) -> None:
    metadata = {f"m{n}": NumberAssignor.metadata({"wide", "narrow", "unknown"}) for n in range(members)}
    given = NumberAssignor.assign(Cluster(), metadata)
    assert sorted(given) == sorted(metadata)
    owners: dict[int, set[str]] = {}
    seen = []
    for member, assignment in given.items():
        for topic, numbers in assignment.assignment:
            for number in numbers:
                owners.setdefault(number, set()).add(member)
                seen.append((topic, number))
    assert sorted(seen) == sorted([("wide", n) for n in range(WIDE)] + [("narrow", n) for n in range(NARROW)])
    assert all(len(each) == 1 for each in owners.values())
    shares = [sum(each == {member} for each in owners.values()) for member in metadata]
    assert max(shares) - min(shares) <= 1


class Owner:
    """A task that is in a set while it is open, and cannot be twice."""

    def __init__(self, held: dict[int, str], partition: int, name: str) -> None:
        self._held, self._partition, self._name = held, partition, name

    async def open(self) -> dict[str, int]:
        if self._partition in self._held:
            raise Later(f"{self._held[self._partition]} has {self._partition}")
        self._held[self._partition] = self._name
        return {}

    async def process(self, batches: object) -> None: ...

    async def idle(self) -> None: ...

    async def close(self, *, lost: bool) -> None:
        del lost
        if self._held.get(self._partition) == self._name:
            del self._held[self._partition]


async def test_who_stops_leaves_its_numbers_to_others_long_before_its_session_ends(
    service_settings: Callable[..., ServiceSettings],
) -> None:
    """Two members share topics of 6 and 3 partitions; a session lasts ten minutes, a move as long as a heartbeat."""
    settings = service_settings()
    topics = [f"{settings.prefix}.wide", f"{settings.prefix}.narrow"]
    specs = [TopicSpec(name, width) for name, width in zip(topics, (WIDE, NARROW), strict=True)]
    await ensure_topics(settings.kafka, specs)
    held: dict[int, str] = {}

    def start(name: str) -> tuple[StreamRunner, asyncio.Task[None]]:
        own = service_settings(instance=name, session_timeout_ms=600_000)
        runner = StreamRunner(
            own, group=f"{settings.prefix}-g", topics=topics, make_task=lambda p: Owner(held, p, name), health=Health()
        )
        return runner, asyncio.ensure_future(runner.run())

    first, first_task = start("a")
    await until(lambda: set(held.values()) == {"a"} and len(held) == WIDE, "a has all", timeout_s=60)
    second, second_task = start("b")
    await until(lambda: sorted(held.values()) == ["a"] * 3 + ["b"] * 3, "each has half", timeout_s=60)
    await first.stop()
    await first_task
    await until(lambda: list(held.values()) == ["b"] * WIDE, "b has all", timeout_s=60)
    await second.stop()
    await second_task
    assert not held
