"""Follower, releaser and batcher with everything outside faked."""

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from serving_cases import T0_US, linear, pipeline
from serving_stack import until

from tidemill_contracts.events import PipelineApplied, Released, Watermark, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_runtime.errors import Later
from tidemill_serving.domain.answers import Recent
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.frames import Logged, apart
from tidemill_serving.domain.house import House
from tidemill_serving.domain.replica import WATERMARK_KEY
from tidemill_serving.handlers.batching import Batcher
from tidemill_serving.handlers.following import Follower, Records
from tidemill_serving.handlers.releasing import Releaser
from tidemill_serving.onnx import Scorer
from tidemill_serving.spool import partitions_of

SPEC = pipeline()
NAMES = SPEC.feature_names()


@dataclass
class Record:
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
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

    async def open_bounded(self, digest: str, features: list[str], deadline_s: float, *, nice: int = 0) -> Scorer:
        del deadline_s, nice
        return await self.open(digest, features)

    def keep(self, digests: Iterable[str]) -> None:
        self.kept = set(digests)


class Log:
    def __init__(self) -> None:
        self.entries = list[Entry]()

    @property
    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.entries]

    def append(self, entries: Sequence[Logged]) -> int:
        self.entries += apart(entries)
        return len(self.entries)


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
        return Desk(spec, "tidemill", "test", partitions_of, recent=Recent())

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


async def caught_up(parts: Parts) -> None:
    parts.tails[-1].caught_up.set()
    await until(parts.follower.caught_up.is_set, "caught up")


async def running(parts: Parts) -> "asyncio.Task[None]":
    return asyncio.ensure_future(parts.releaser.run(parts.follower.caught_up.wait()))


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
