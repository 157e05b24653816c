"""Answers of imported models: in one thread beside the event loop, so that a heavy one does not delay pipelines.

What arrives while the thread is busy is its next batch; a batch is logged with one write before its answers leave.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from tidemill_serving.domain.body import OVERLOADED, RefusedError
from tidemill_serving.domain.desk import Result
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.imported import Answered, Graph, Imported, entry_of
from tidemill_serving.domain.protocol import Outcome, chosen
from tidemill_serving.domain.served import NO_MODEL, Ask, Description
from tidemill_serving.handlers.journal import Journal

MOST_WAITING, MOST_TOGETHER = 256, 32
LOOK_EVERY_S = 0.5
_log = logging.getLogger(__name__)


class _Job(NamedTuple):
    model: Imported
    graph: Graph
    ask: Ask
    done: "asyncio.Future[Result]"
    asked_ns: int


class _Ran(NamedTuple):
    result: Result
    entry: Entry | None
    ns: int


class Runs:
    """The queue of imported models' requests, bounded, and the thread that answers them."""

    def __init__(self, journal: Journal, topic: str) -> None:
        """`topic` is where the answers go."""
        self._journal, self._topic = journal, topic
        self._thread = ThreadPoolExecutor(1, "imported")
        self._jobs: list[_Job] = []
        self._task: asyncio.Task[None] | None = None

    async def answer(self, model: Imported, ask: Ask) -> Result:
        """The body, or why there is none; raises RefusedError."""
        graph = model.graph
        if graph is None:
            raise NO_MODEL.with_traceback(None)
        graph.check(ask.call.tensors)
        chosen([port.name for port in graph.outputs], ask.call.outputs)
        if len(self._jobs) >= MOST_WAITING:
            raise OVERLOADED.with_traceback(None)
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._jobs.append(_Job(model, graph, ask, done, time.perf_counter_ns()))
        if self._task is None:
            self._task = asyncio.ensure_future(self._drain())
        return await done

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._jobs:
                batch, self._jobs = self._jobs[:MOST_TOGETHER], self._jobs[MOST_TOGETHER:]
                batch = [job for job in batch if not job.done.done()]  # whose client has gone
                began = time.perf_counter_ns()
                work = loop.run_in_executor(
                    self._thread, self._run_all, batch, self._journal.now_us(), self._journal.house.degraded
                )
                while not (await asyncio.wait({work}, timeout=LOOK_EVERY_S))[0]:
                    for job in batch:
                        job.graph.hurry()
                self._finish(batch, work.result(), began)
        finally:
            self._task = None

    def _run_all(self, batch: Sequence[_Job], now_us: int, degraded: bool) -> list[_Ran]:  # noqa: FBT001 - ours
        return [self._run(job, now_us, degraded=degraded) for job in batch]

    def _run(self, job: _Job, now_us: int, *, degraded: bool) -> _Ran:
        """In the thread."""
        started, model, ask = time.perf_counter_ns(), job.model, job.ask
        try:
            names = chosen([port.name for port in job.graph.outputs], ask.call.outputs)
            outputs = job.graph.run(ask.call.tensors, names)
            identity = ask.call.id or ask.identity
            body = ask.render(Outcome(model.name, str(model.version), identity, ask.identity, outputs))
            entry = entry_of(Answered(model, ask, outputs, now_us, degraded), self._topic, self._journal.source)
        except RefusedError as refused:
            return _Ran(refused.with_traceback(None), None, time.perf_counter_ns() - started)
        except Exception:  # noqa: BLE001 - a fault of ours over one request must not reach its neighbours
            _log.exception("an answer of the imported model %s failed", model.name)
            return _Ran(_FAILED, None, time.perf_counter_ns() - started)
        return _Ran(body, entry, time.perf_counter_ns() - started)

    def _finish(self, batch: Sequence[_Job], ran: Sequence[_Ran], began: int) -> None:
        entries = [found.entry for found in ran if found.entry is not None]
        is_logged = not entries or self._journal.append(entries)
        for job, found in zip(batch, ran, strict=True):
            is_refused = isinstance(found.result, RefusedError)
            result = found.result if is_logged or is_refused else _FULL
            self._journal.house.statistics.batch(
                (job.model.name, str(job.model.version)), rows=0 if is_refused else 1, requests=1,
                failed=int(result is not found.result or is_refused),
                times=(self._journal.now_us() // 1000, began - job.asked_ns, found.ns),
            )  # fmt: skip
            if not job.done.done():
                job.done.set_result(result)


class ImportedModel:
    """`tidemill_serving.domain.served.Served` for an imported model."""

    def __init__(self, model: Imported, graph: Graph, runs: Runs, versions: list[str]) -> None:
        self._model, self._graph, self._runs, self._versions = model, graph, runs, versions

    @property
    def version(self) -> str:
        """Its number."""
        return str(self._model.version)

    def describe(self) -> Description:
        """Inputs and outputs as the model names them."""
        return Description(
            self._model.name, self._versions, "onnxruntime_onnx", self._graph.inputs, self._graph.outputs
        )

    async def infer(self, ask: Ask) -> Result:
        """As `Served`."""
        return await self._runs.answer(self._model, ask)


_FULL = RefusedError(503, "the prediction log is full", "the log takes no record now; the answer was not given")
_FAILED = RefusedError(503, "no answer", "the model's answer failed; the log of the service says why")
