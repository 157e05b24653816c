"""When requests may be answered, and from what."""

import asyncio
from collections.abc import Callable

import pytest
from serving_cases import released
from serving_parts import SPEC, Parts, ended, running
from serving_stack import until

from tidemill_runtime.health import Health
from tidemill_serving.domain.replica import Copied, Replica
from tidemill_serving.handlers.standing import Standing

pytestmark = pytest.mark.anyio


@pytest.fixture
async def parts() -> Parts:
    made = Parts()
    await made.apply(SPEC)
    return made


class Snapshots:
    def __init__(self) -> None:
        self.saved = list[Copied]()

    def save_snapshot(self, copied: Copied) -> None:
        self.saved.append(copied)

    def load_snapshot(self) -> Replica | None:
        return None


class Kafka:
    """What Standing is told of it."""

    def __init__(self) -> None:
        self.has_all = self.reachable = self.refuses = False

    async def refused(self) -> bool:
        return self.refuses


@pytest.fixture
async def standing(parts: Parts) -> "tuple[Kafka, Health, Callable[[], bool], asyncio.Task[None]]":
    kafka, health = Kafka(), Health()
    made = Standing(parts.house, health, Snapshots(), degraded_after_s=0.2)
    run = made.run(has_all=lambda: kafka.has_all, reachable=lambda: kafka.reachable, refused=kafka.refused)
    return kafka, health, lambda: health.ready()[0], asyncio.ensure_future(run)


StandingParts = tuple[Kafka, Health, Callable[[], bool], "asyncio.Task[None]"]


async def test_before_anything_was_looked_at_nobody_is_ready(parts: Parts) -> None:
    health = Health()
    health.set("running", ok=True)  # the runtime's part, which is there first
    Standing(parts.house, health, Snapshots(), degraded_after_s=0.2)
    assert not health.ready()[0]


async def test_ready_means_that_everything_was_taken_and_stays_so(parts: Parts, standing: StandingParts) -> None:
    kafka, _, is_ready, task = standing
    kafka.reachable = True
    await until(lambda: not parts.house.degraded, "reachable")
    assert not is_ready()
    kafka.has_all = True
    await until(lambda: is_ready() and parts.desk.is_ready, "ready")
    kafka.has_all = False  # a release is being examined
    kafka.reachable = False
    await until(lambda: parts.house.degraded, "degraded")
    assert is_ready()
    await ended(task)


async def test_the_disk_serves_only_when_nobody_listens_or_for_long(parts: Parts, standing: StandingParts) -> None:
    kafka, _, is_ready, task = standing
    models = await running(parts)
    parts.follower.caught_up.set()
    parts.release(released(SPEC, 1, "a" * 64))
    await until(lambda: parts.epoch == 1, "a release on hand")
    fresh = parts.house.replica
    assert not parts.desk.is_ready
    kafka.refuses = True
    await until(lambda: is_ready() and parts.house.degraded, "served from the disk")
    assert parts.house.replica is not fresh
    kafka.has_all = kafka.reachable = True
    await until(lambda: not parts.house.degraded, "Kafka is back")
    await ended(task)
    await ended(models)
