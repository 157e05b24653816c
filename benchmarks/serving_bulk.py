"""What requests over Kafka cost those who wait: the same load over HTTP, by turns beside a full topic and alone."""

import json
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import httpx
import psutil
import uvloop
from _client import Sample, percentile
from _cores import cpu_s, listener
from _results import Progress, Result, report, result
from _stack import apply, departure, pipeline, release, stack, until, write
from predict import ENTITIES, RATE, Predict, fill

from tidemill.stack import Endpoints
from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import PredictionRequested
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import topic

TURNS, SECONDS, WARM_UP_S = int(os.environ.get("BENCH_TURNS", "4")), float(os.environ.get("BENCH_SECONDS", "5")), 3
EACH, MOST_PER_S = int(os.environ.get("BENCH_EACH", "16")), 6_000
"""Instances of one record, and how many of them a second of a turn has waiting at its start: more than can be done."""


METRIC = re.compile(r"^tidemill_serving_bulk_instances_total\{[^}]*\} (\S+)$", re.MULTILINE)


class Turn(NamedTuple):
    """What one turn gave: the answers that somebody waited for, processor seconds of serving, instances of bulk."""

    samples: list[Sample]
    cpu_s: float
    bulk: int

    def wait_ms(self, share: float) -> float:
        """A percentile of the waits, from when each was due."""
        return 1000 * percentile([s.done - s.due for s in self.samples], share)


class Bulk:
    """Fills the topic and sees how far it is read."""

    def __init__(self, seen: Endpoints, spec: PipelineSpec) -> None:
        self._kafka, self._spec, self._made = seen.kafka, spec, 0
        self._metrics = f"{seen.services['serving'].url}/metrics"

    async def send(self, count: int) -> None:
        """So many instances, over all partitions."""
        records: list[tuple[bytes, Envelope, int]] = []
        for first in range(self._made, self._made + count, EACH):
            numbers = range(first, first + EACH)
            body = json.dumps({"instances": [self._instance(number) for number in numbers]}).encode()
            envelope = Envelope(f"bulk-{first}", PredictionRequested.TYPE, "benchmark", 0, body)
            records.append((b"k", envelope, first // EACH % self._spec.partitions))
        self._made += len(records) * EACH
        await write(self._kafka, topic("requests", self._spec.name), records)

    def _instance(self, number: int) -> dict[str, object]:
        data = departure(number % ENTITIES, flight=f"BULK-{number}")["data"]
        return {"id": f"bulk-{number}", "inputs": {name: data[name] for name in self._spec.request.fields}}

    async def done(self) -> int:
        """Instances that were answered so far."""
        async with httpx.AsyncClient() as client:
            found = METRIC.search((await client.get(self._metrics)).text)
        return 0 if found is None else int(float(found[1]))

    async def drained(self) -> None:
        """Until all that was sent is answered."""

        async def is_drained() -> bool:
            return await self.done() == self._made

        await until(is_drained, "bulk is answered", deadline_s=300)


async def turn(predict: Predict, bulk: Bulk, serving: psutil.Process) -> Turn:
    """The load once."""
    began, before = cpu_s(serving), await bulk.done()
    samples = await predict.at_rate(SECONDS)
    return Turn(samples, cpu_s(serving) - began, await bulk.done() - before)


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress, spec = Progress(), pipeline()
    await apply(seen, spec)
    await fill(seen, spec)
    await release(seen, spec)
    predict, bulk, serving = (
        Predict(seen, spec, progress),
        Bulk(seen, spec),
        listener(str(seen.services["serving"].url)),
    )
    await predict.ready()
    await predict.at_rate(WARM_UP_S)
    alone, beside = list[Turn](), list[Turn]()
    for number in range(2 * TURNS):
        if number % 4 in {0, 3}:  # by turns, so that what changes with time is the same for both
            alone.append(await turn(predict, bulk, serving))
            continue
        await bulk.send(int(MOST_PER_S * SECONDS))
        began = await bulk.done()

        async def has_begun(began: int = began) -> bool:
            return await bulk.done() > began

        await until(has_begun, "bulk is being read")
        beside.append(await turn(predict, bulk, serving))
        progress.step("bulk is drained")
        await bulk.drained()
    return figures(alone, beside)


def figures(alone: Sequence[Turn], beside: Sequence[Turn]) -> list[Result]:
    """Percentiles of each turn, the middle one of the turns, and how much slower it is beside bulk."""
    found = []
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        base, other = (middle([each.wait_ms(share) for each in turns]) for turns in (alone, beside))
        found += [result(f"{name} alone", base, "ms"), result(f"{name} beside bulk", other, "ms", peer=("alone", base))]
    for name, turns in (("alone", alone), ("beside bulk", beside)):
        found.append(result(f"processor {name}", middle([t.cpu_s / SECONDS for t in turns]), "cores"))
    found.append(result(f"bulk at {RATE:,}/s", middle([each.bulk / SECONDS for each in beside]), "instances/s"))
    return found


def middle(values: Sequence[float]) -> float:
    """The median."""
    return percentile(list(values), 0.5)


if __name__ == "__main__":
    with stack("serving") as running:
        report("serving-bulk", uvloop.run(measure(running)))
