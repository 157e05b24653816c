"""The demo from start to report: bring the stack up, replay, take the counts, write the report."""

import asyncio
import contextlib
import json
import random
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.client.clients import AsyncClient
from tidemill.client.transport import AsyncTransport, Endpoints, TidemillError
from tidemill.demo import flights as data
from tidemill.demo.quality import Scores, daily_curves, quality, read_scores
from tidemill.demo.replay import Progress, Replay, Streams
from tidemill.ledger.counts import read_ledger
from tidemill.ledger.digest import decisions_digest, read_decisions
from tidemill.ledger.topics import body, read_topic
from tidemill.stack import NotRunningError, Stack
from tidemill_contracts.pipeline import PipelineSpec, load_pipeline
from tidemill_contracts.topics import topic
from tidemill_runtime.artifacts import Artifacts

JANUARY_DAYS = 31
CHANGE_DAY = 59
"""1 March, the day from which `inject` changes the truth."""
START_S = 600.0
"""The first start on a machine downloads Kafka and compiles the engine's kernels."""
TICK = 30 * data.MINUTE
"""How far event time moves at a step, and so how fresh the features of a prediction are."""
VICTIMS = ("ingestion", "features", "registry", "trainer", "monitoring", "serving", "kafka", "postgres")


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. `days` counts from 1 January; the loop needs more than the 31 of January."""

    pipeline: Path
    output: Path
    home: Path
    days: int = 90
    inject: bool = False
    kill: bool = False
    keep: bool = False


@dataclass(slots=True)
class Demo:
    """One run of the demo; `phases` are seconds by name."""

    options: Options
    progress: Progress = field(default_factory=Progress)
    phases: dict[str, float] = field(default_factory=dict)
    kills: list[dict[str, Any]] = field(default_factory=list)
    transport: AsyncTransport | None = None

    async def run(self) -> dict[str, Any]:
        """Run everything and return the report, which is also written to `output`/report.json."""
        options, spec = self.options, load_pipeline(self.options.pipeline)
        if options.days <= JANUARY_DAYS:
            msg = f"January trains the first model, so the demo needs more than {JANUARY_DAYS} days"
            raise TidemillError(msg)
        self._clear()
        stack = Stack(options.home)
        with self._phase("stack"):
            await asyncio.to_thread(stack.start, timeout_s=START_S)
        try:
            async with self._connected() as transport:
                return await self._loop(spec, stack, transport)
        finally:
            with contextlib.suppress(NotRunningError):
                await asyncio.to_thread(stack.stop)

    async def _loop(self, spec: PipelineSpec, stack: Stack, transport: AsyncTransport) -> dict[str, Any]:
        options = self.options
        with self._phase("data"):
            streams = await asyncio.to_thread(Streams.load)
        change = data.START_US + CHANGE_DAY * data.DAY if options.inject else None
        replay = Replay(transport, spec, streams, self.progress, change)
        first, end = data.START_US + JANUARY_DAYS * data.DAY, data.START_US + options.days * data.DAY
        self.progress.end_us = end
        with self._phase("apply"):
            await transport.call("registry", "PUT", f"/v1/pipelines/{spec.name}", body=spec.model_dump(mode="json"))
            await replay.wait_configured()
        with self._phase("january"):
            await replay.warm_up(data.START_US, first)
        with self._phase("first_model"):
            await replay.first_model(first)
        replay.on_tick = self._killer(stack, first, end) if options.kill else None
        with self._phase("loop"):
            await replay.run(first, end, tick=TICK)
        with self._phase("drain"):
            await replay.drain(end)
        with self._phase("report"):
            return await self._report(spec, stack, transport, change)

    async def _report(
        self, spec: PipelineSpec, stack: Stack, transport: AsyncTransport, change: int | None
    ) -> dict[str, Any]:
        kafka = stack.endpoints().kafka
        scores = await read_scores(kafka, spec.name)
        ledger = await read_ledger(transport, kafka, spec)
        decisions = await read_decisions(kafka)
        artifacts = Artifacts(self.options.home / "artifacts")
        events = {
            family: [{"at_us": r.envelope.time_us, **body(r)} for r in records if r.envelope]
            for family, records in decisions.items()
        }
        memory = await asyncio.to_thread(stack.memory)
        report: dict[str, Any] = {
            "decisions_digest": decisions_digest(decisions, artifacts.get),
            "options": {"days": self.options.days, "inject": self.options.inject, "kill": self.options.kill},
            "ledger": ledger.counts,
            "ledger_broken": ledger.broken,
            "quality": quality(scores),
            "counts": await self._counts(spec, kafka, events),
            "memory_mib": {"total": memory.peak_mib, **{name: use.peak_mib for name, use in memory.processes.items()}},
            "memory_samples": {name: use.samples for name, use in memory.processes.items()},
            "kills": self.kills,
            "client_retries": transport.retries,
            "waits": self.progress.waits,
            "timeline": {"change_us": change, "curves": daily_curves(scores), "events": events},
            "example": await self._example(scores, transport),
        }
        if change is not None:
            report["quality"]["recovered"] = quality(scores, since_us=change + 7 * data.DAY)
        return report

    async def _counts(self, spec: PipelineSpec, kafka: str, events: dict[str, Any]) -> dict[str, int]:
        swapped: set[int] = set()
        async for record in read_topic(kafka, topic("swaps")):
            event = body(record)
            if event.get("pipeline") == spec.name:
                swapped.add(event["epoch"])
        return {
            "drifts": len(events["drift"]), "runs": len(events["runs"]), "releases": len(events["releases"]),
            "swaps": len(swapped),
        }  # fmt: skip

    async def _example(self, scores: Scores, transport: AsyncTransport) -> dict[str, Any]:
        """The last labelled prediction, for the report's link into its lineage."""
        if scores.newest is None:
            return {"prediction_id": None, "steps": []}
        async with AsyncClient(endpoints=transport.endpoints, patience_s=transport.patience_s) as client:
            found = await client.lineage(scores.newest)
        return {"prediction_id": scores.newest, "steps": [{"what": s.what, "which": s.which} for s in found.steps]}

    def finish(self, report: dict[str, Any]) -> Path:
        """Write the report; its phases are known only now."""
        report["phases"] = {name: round(seconds, 2) for name, seconds in self.phases.items()}
        self.options.output.mkdir(parents=True, exist_ok=True)
        path = self.options.output / "report.json"
        path.write_text(json.dumps(report, indent=1))
        return path

    def _killer(self, stack: Stack, first: int, end: int) -> Any:  # noqa: ANN401 - a callback of the replay
        """SIGKILLs each victim once, at moments drawn at random over the loop. What is decided must not change."""
        moments = sorted(random.SystemRandom().uniform(first, end - data.DAY) for _ in VICTIMS)
        due = list(zip(moments, random.SystemRandom().sample(VICTIMS, len(VICTIMS)), strict=True))

        async def on_tick(now_us: int) -> None:
            while due and due[0][0] <= now_us:
                moment, victim = due.pop(0)
                since = time.monotonic()
                await asyncio.to_thread(stack.kill, victim)
                self.kills.append(
                    {"victim": victim, "at_us": int(moment), "back_after_s": round(time.monotonic() - since, 2)}
                )

        return on_tick

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncTransport]:
        self.transport = AsyncTransport(Endpoints.find(self.options.home), patience_s=90.0)
        try:
            yield self.transport
        finally:
            await self.transport.close()

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        self.progress.phase = name
        since = time.monotonic()
        try:
            yield
        finally:
            self.phases[name] = time.monotonic() - since

    def _clear(self) -> None:
        """Start with an empty home, so that runs can be compared; only what a stack has made is removed."""
        home = self.options.home
        if home.exists() and not self.options.keep:
            if any(home.iterdir()) and not (home / ".tidemill-home").exists():
                msg = f"{home} holds something that no Tidemill stack has made: choose another --home"
                raise TidemillError(msg)
            shutil.rmtree(home)
