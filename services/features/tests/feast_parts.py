"""Feast's edge in this process: the routes on a replica of records from memory and an ingestion that only listens."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx
from features_cases import HOUR_US, START_US, FakeRecord, pipeline
from pydantic import SecretStr

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_features.domain.encode import Encoder
from tidemill_features.domain.views import Program, compile_program
from tidemill_features.feast import FeastStore, feast_routes
from tidemill_features.feast.store import OnRecords
from tidemill_runtime.http import App

NAN = float("nan")
SHORT = ("count_1h", "count_1d", "delay_mean_1h", "delay_mean_1d", "delay_sum_1h", "delay_sum_1d", "delay_max_1h",
         "delay_max_1d", "delay_last")  # fmt: skip
"""Features of each view of the test's pipeline."""


def vector(view: str, entity: str, values: Sequence[float], *, at_us: int = START_US, revision: int = 1) -> FakeRecord:
    """A record of the view's topic, as the service writes it."""
    known = {each.name: each for each in program().views}[view]
    made = Encoder(view, known.version, topic=known.output_topic, partition=0).vector(
        entity.encode(), (at_us, revision), list(values), {0: 1}, None
    )
    return FakeRecord(made.value, made.headers, made.key, topic=made.topic)


def deletion(view: str, entity: str) -> FakeRecord:
    """What a view writes when an entity's time to live is over."""
    return FakeRecord(None, [], entity.encode(), topic=topic_of(view))


def topic_of(view: str) -> str:
    return {each.name: each for each in program().views}[view].output_topic


def program(spec: PipelineSpec | None = None) -> Program:
    return compile_program([spec or pipeline()], "tm")


def wide() -> PipelineSpec:
    """Another pipeline with one view of 60 features."""
    found = pipeline("wide").model_dump(mode="json")
    view = found["views"]["by-flight"]
    view["windows"] = {f"{n}h": {"length": f"{n}h"} for n in range(1, 61)}
    view["aggregations"] = [{"function": "count"}]
    return PipelineSpec.model_validate_json(json.dumps(found | {"views": {"wide": view}}))


F1 = [1.0, 2.0, NAN, 0.1 + 0.2, 5.0, -0.0, 7.5, 1e300, 9.0]
RECORDS = (
    vector("by-flight", "F1", [0.0] * 9),
    vector("by-flight", "F1", F1, at_us=START_US + 500_000, revision=3),
    vector("by-flight", "F1", [4.0] * 9, revision=2),  # an older one, late
    vector("by-flight", "F2", [2.0] * 9, at_us=START_US + HOUR_US),
    vector("by-flight", "GONE", [3.0] * 9, at_us=START_US + HOUR_US),
    deletion("by-flight", "GONE"),
    deletion("by-flight", "COMPACTED"),
    vector("by-carrier", "AA", [6.0] * 9),
    vector("by-route", '["EWR","LAX"]', [7.0] * 9),
)


class MemoryTail:
    """Hands over what there is at once."""

    def __init__(self, topics: Sequence[str], take: OnRecords, records: Sequence[FakeRecord]) -> None:
        self.caught_up = asyncio.Event()
        self._topics, self._take, self._records = set(topics), take, records

    async def run(self) -> None:
        for record in self._records:
            if record.topic in self._topics:
                self._take(record.topic, record.partition, [record])
        self.caught_up.set()
        await asyncio.Event().wait()


class Listener:
    """An ingestion that keeps what it is sent, or raises `refuses`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, list[Mapping[str, Any]]]] = []
        self.refuses: Exception | None = None

    async def send(self, source: str, events: Sequence[Mapping[str, Any]]) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.sent.append((source, list(events)))

    async def close(self) -> None:
        pass


class Edge:
    """The edge with its parts; `async with` runs its background."""

    def __init__(
        self, *, key: str | None = None, max_bytes: int = 10_000_000, patience_s: float = 5.0,
        records: Sequence[FakeRecord] = RECORDS,
    ) -> None:  # fmt: skip
        self.ingestion, self.is_ready, self.opened = Listener(), True, 0
        self.records = list(records)
        self.store = FeastStore(
            open_tail=self._open, ingestion=self.ingestion, is_ready=lambda: self.is_ready, max_bytes=max_bytes,
            patience_s=patience_s,
        )  # fmt: skip
        self.apply(pipeline(), wide())
        self.app = App(feast_routes(), api_key=SecretStr(key) if key else None)
        self.app.state.feast = self.store
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://features")

    def apply(self, *specs: PipelineSpec) -> None:
        self.store.apply(specs, compile_program(specs, "tm"))

    def _open(self, topics: Sequence[str], take: OnRecords) -> MemoryTail:
        self.opened += 1
        return MemoryTail(topics, take, self.records)

    async def ask(self, body: Mapping[str, Any], **headers: str) -> httpx.Response:
        return await self.client.post("/get-online-features", json=body, headers=headers)

    async def __aenter__(self) -> Self:
        self._running = asyncio.create_task(self.store.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._running.cancel()
        await asyncio.wait({self._running})
        await self.client.aclose()
