"""What goes on beside the requests, with everything outside faked: readiness, following views, taking releases."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import pytest
from serving_cases import HOUR_US, T0_US, linear, pipeline, released
from serving_stack import until

from tidemill_contracts.events import FeatureVector, PipelineApplied, Released, Watermark, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_runtime.errors import Later
from tidemill_runtime.health import Health
from tidemill_serving.domain.answers import Recent
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.house import House
from tidemill_serving.domain.replica import WATERMARK_KEY, Copied, Replica
from tidemill_serving.handlers.batching import Batcher
from tidemill_serving.handlers.following import Follower, Records
from tidemill_serving.handlers.releasing import Releaser
from tidemill_serving.handlers.standing import Standing
from tidemill_serving.onnx import Scorer
from tidemill_serving.spool import partition_of

pytestmark = pytest.mark.anyio
SPEC = pipeline()
NAMES = SPEC.feature_names()


@dataclass
class Record:
    key: bytes | None
    value: bytes | None
    headers: Iterable[tuple[str, bytes]] = ()
    offset: int = 0


class FakeTail:
    """A reader that is fed by hand."""

    def __init__(self, topics: list[str], on_records: Records) -> None:
        self.topics, self.on_records = topics, on_records
        self.caught_up, self.stopped = asyncio.Event(), False

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.stopped = True


class FakeModels:
    """Models by digest; a digest may be missing, or refused."""

    def __init__(self) -> None:
        self.missing, self.refused, self.kept = set[str](), set[str](), set[str]()

    async def open(self, digest: str, features: list[str]) -> Scorer:
        if digest in self.missing:
            raise Later(digest)
        if digest in self.refused:
            raise ValueError("hostile")
        return Scorer(linear(features), len(features))

    def keep(self, digests: Iterable[str]) -> None:
        self.kept = set(digests)


class Log:
    def __init__(self) -> None:
        self.kinds = list[str]()

    def append(self, entries: Iterable[object]) -> int:
        self.kinds += [getattr(entry, "kind", "") for entry in entries]
        return len(self.kinds)


class Parts:
    """Follower, releaser and batcher on fakes."""

    def __init__(self) -> None:
        self.house, self.log, self.models, self.tails = House(), Log(), FakeModels(), list[FakeTail]()
        self.swaps = list[int]()
        self.batcher = Batcher(
            self.house, self.log, appended=lambda: None, swapped=self._swapped, now_us=lambda: T0_US
        )  # fmt: skip
        self.follower = Follower(
            self.house, prefix="tidemill", open_tail=self._open, make_desk=self._desk, progress=self.batcher.progress
        )
        self.releaser = Releaser(
            self.house, self.models, topic="releases", progress=self.batcher.progress, caught_up=self.follower.caught_up
        )
        self.follower.configured.append(self.releaser.reconsider)

    def _swapped(self, desk: Desk) -> None:
        self.swaps.append(desk.swaps[-1].epoch)

    def _open(self, topics: list[str], on_records: Records) -> FakeTail:
        self.tails.append(FakeTail(topics, on_records))
        return self.tails[-1]

    def _desk(self, spec: PipelineSpec) -> Desk:
        return Desk(spec, "tidemill", "test", partition_of, recent=Recent())

    async def apply(self, spec: PipelineSpec) -> None:
        applied = PipelineApplied(
            pipeline=spec.name, revision=1, digest=spec.digest(), spec=spec.model_dump(mode="json")
        )
        await self.follower.on_pipelines({spec.name: applied})

    def release(self, *events: Released) -> None:
        for event in events:
            envelope = encode(event, id=f"r{event.epoch}", source="test", time_us=T0_US)
            self.releaser.on_records("releases", 0, [Record(b"", envelope.data, envelope.headers())])

    def mark(self, time_us: int) -> None:
        for partition in range(SPEC.partitions):
            body = Watermark(view="by-carrier", partition=partition, watermark_us=time_us)
            tail = self.tails[-1]
            tail.on_records(tail.topics[0], partition, [Record(WATERMARK_KEY, body.model_dump_json().encode())])

    @property
    def desk(self) -> Desk:
        return self.house.desks[SPEC.name]

    @property
    def epoch(self) -> int:
        active = self.desk.champion.active
        return active.released.epoch if active else 0


@pytest.fixture
async def parts() -> Parts:
    made = Parts()
    await made.apply(SPEC)
    return made


async def caught_up(parts: Parts) -> None:
    parts.tails[-1].caught_up.set()
    await until(parts.follower.caught_up.is_set, "caught up")


async def running(parts: Parts) -> "asyncio.Task[None]":
    return asyncio.ensure_future(parts.releaser.run(parts.follower.caught_up.wait()))


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_requests_see_the_replica_when_it_has_caught_up(parts: Parts) -> None:
    assert parts.tails[0].topics == ["tidemill.features.by-carrier.v1"]
    assert not parts.follower.caught_up.is_set()
    parts.mark(T0_US)
    assert parts.desk.watermark_us(parts.house.replica) is None
    await caught_up(parts)
    assert parts.desk.watermark_us(parts.house.replica) == T0_US


async def test_a_view_that_changes_is_read_again_from_the_start(parts: Parts) -> None:
    await caught_up(parts)
    await parts.apply(SPEC)
    assert len(parts.tails) == 1
    changed = SPEC.model_copy(
        update={"views": {"by-carrier": SPEC.views["by-carrier"].model_copy(update={"where": "delay > 0"})}}
    )
    await parts.apply(changed)
    assert parts.tails[0].stopped
    assert not parts.follower.caught_up.is_set()
    await caught_up(parts)
    assert len(parts.house.replica.tables) == 2


async def test_a_pipeline_that_is_gone_is_not_served(parts: Parts) -> None:
    await parts.follower.on_pipelines({})
    assert parts.house.desks == {}


async def test_garbage_in_a_view_is_counted_and_its_neighbours_apply(parts: Parts) -> None:
    await caught_up(parts)
    event = FeatureVector(
        view="by-carrier", version=SPEC.view_version("by-carrier"), entity="AA", at_us=1, revision=1, values=[1.0, 2.0],
        positions={},
    )  # fmt: skip
    good = Record(b"AA", event.model_dump_json().encode())
    parts.tails[0].on_records(parts.tails[0].topics[0], 0, [Record(b"x", b"\xff"), good, Record(None, b"{}")])
    assert parts.house.counts.bad_records == 2
    assert parts.house.replica.entities(["by-carrier"]) == {"by-carrier": 1}


async def test_only_releases_that_can_still_answer_are_opened_at_the_start(parts: Parts) -> None:
    parts.release(*(released(SPEC, epoch, "a" * 64) for epoch in range(1, 5)))
    parts.release(released(SPEC, 5, "b" * 64, effective_at_us=T0_US + HOUR_US))
    parts.mark(T0_US)
    task = await running(parts)
    await caught_up(parts)
    await until(parts.releaser.settled.is_set, "settled")
    assert (parts.epoch, parts.swaps) == (4, [4])
    assert [found.released.epoch for found in parts.desk.champion.staged] == [5]
    parts.mark(T0_US + HOUR_US)
    assert (parts.epoch, parts.swaps) == (5, [4, 5])
    await ended(task)


async def test_a_release_that_cannot_be_fetched_holds_up_nothing_but_itself(parts: Parts) -> None:
    parts.models.missing.add("a" * 64)
    task = await running(parts)
    await caught_up(parts)
    parts.release(released(SPEC, 1, "a" * 64))
    await until(parts.releaser.settled.is_set, "settled")
    assert parts.epoch == 0
    parts.models.missing.clear()
    await until(lambda: parts.epoch == 1, "fetched after all")
    await ended(task)


async def test_a_refused_release_and_garbage_leave_the_champion(parts: Parts) -> None:
    parts.models.refused.add("b" * 64)
    task = await running(parts)
    await caught_up(parts)
    parts.release(released(SPEC, 1, "a" * 64))
    await until(lambda: parts.epoch == 1, "the first release")
    parts.releaser.on_records("releases", 0, [Record(b"x", b"garbage"), Record(b"flights", None)])
    parts.release(released(SPEC, 2, "b" * 64), released(SPEC, 3, "c" * 64).model_copy(update={"features": ["nothing"]}))
    await until(lambda: set(parts.desk.refused) == {2, 3}, "refused")
    assert parts.epoch == 1
    parts.release(released(SPEC, 4, "b" * 64))
    await until(lambda: set(parts.desk.refused) == {2, 3, 4}, "refused")
    parts.release(released(SPEC, 5, "d" * 64, shadow="b" * 64), released(SPEC, 6, "b" * 64))
    await until(lambda: parts.epoch == 5, "the highest that is good; a bad shadow is left out")
    assert parts.desk.champion.active is not None
    assert parts.desk.champion.active.shadows == []
    assert parts.models.kept == {"a" * 64, "d" * 64}
    await ended(task)


async def test_a_release_that_is_ahead_of_its_pipeline_file_waits_for_it(parts: Parts) -> None:
    task = await running(parts)
    await caught_up(parts)
    changed = pipeline(extra="    half: distance / 2\n")
    parts.release(released(changed, 1, "a" * 64))
    await until(lambda: set(parts.desk.refused) == {1}, "refused")
    await parts.apply(changed)
    await until(lambda: parts.epoch == 1, "taken with its file")
    await ended(task)


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
