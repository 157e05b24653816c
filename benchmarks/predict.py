"""Predictions over HTTP at a fixed rate, with every answer in the log: latency counts from when each was due."""

import json
import time
from collections.abc import Sequence

import uvloop
from _client import Load, Sample, ask, connect, percentile, post
from _peers import echo
from _results import Progress, Result, cpu_results, report, result
from _stack import START_US, Cpu, Topic, apply, departure, get, pipeline, release, stack, until, write

from tidemill.stack import Endpoints
from tidemill_contracts import topic, view_topic
from tidemill_contracts.events import FeatureVector, Prediction, Watermark, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.entities import EntityKey

RATE, SECONDS, WARM_UP_S, CONNECTIONS = 1000, 20, 3, 64
FLAT_OUT, FLAT_OUT_CONNECTIONS = 20_000, 32
ENTITIES = 200
WATERMARK_KEY = b"\x00watermark"


async def fill(seen: Endpoints, spec: PipelineSpec) -> None:
    """What features writes: a vector for the entities of the requests in every view, and watermarks."""
    for view in spec.views:
        width, version = len(spec.views[view].feature_names(view)), spec.view_version(view)
        records = []
        for number in range(ENTITIES):
            entity = _entity(spec, view, number)
            vector = FeatureVector(
                view=view, version=version, entity=entity, at_us=START_US, revision=1,
                values=[float(number % 7 + place) for place in range(width)], positions={"0": 1, "1": 1},
            )  # fmt: skip
            envelope = encode(vector, id=f"{view}-{number}", source="benchmark", time_us=START_US)
            records.append((entity.encode(), envelope, 0))
        for partition in range(spec.partitions):
            mark = Watermark(view=view, partition=partition, watermark_us=START_US)
            envelope = encode(mark, id=f"{view}-mark-{partition}", source="benchmark", time_us=START_US)
            records.append((WATERMARK_KEY, envelope, partition))
        await write(seen.kafka, view_topic("features", view, version), records)


def _entity(spec: PipelineSpec, view: str, number: int) -> str:
    key = EntityKey(spec.entities[spec.views[view].entity].key, spec.request.fields)
    return str(key(departure(number, flight=f"UA-{number}")["data"]))


def requests(url: str, spec: PipelineSpec, first: int, count: int) -> list[bytes]:
    """One instance each, with an id of its own."""
    made = []
    for number in range(first, first + count):
        data = departure(number % ENTITIES, flight=f"UA-{number}")["data"]
        inputs = {name: data[name] for name in spec.request.fields}
        made.append(post(url, json.dumps({"id": f"r-{number}", "inputs": inputs}).encode()))
    return made


class Predict:
    """The runs of this benchmark against one stack."""

    def __init__(self, seen: Endpoints, spec: PipelineSpec, progress: Progress) -> None:
        self._base, self._spec, self._progress = str(seen.services["serving"].url), spec, progress
        self._url = f"{self._base}/v1/predict/{spec.name}"
        self._answered: list[str] = []
        self._asked = 0

    async def ready(self) -> None:
        """Until a request is answered from vectors."""
        connection = (await connect(self._url, 1))[0]

        async def answers() -> bool:
            status, body = await ask(connection, self._take(1)[0])
            if status == 200:
                self._answered.append(json.loads(body)["prediction_id"])
            return status == 200 and not json.loads(body)["defaulted"]

        await until(answers, "a first prediction")
        connection.close()

    async def at_rate(self, seconds: float) -> list[Sample]:
        """Requests at the fixed rate, on time whatever became of those before."""
        return await self._run(self._take(int(RATE * seconds)), CONNECTIONS, RATE)

    async def flat_out(self) -> float:
        """Answers per second when every connection asks again at once."""
        samples = await self._run(self._take(FLAT_OUT), FLAT_OUT_CONNECTIONS, None)
        return len(samples) / (max(s.done for s in samples) - min(s.sent for s in samples))

    async def check(self, kafka: str) -> None:
        """Every answered id stands in the log, once."""
        wanted = set(self._answered)
        assert len(wanted) == len(self._answered)

        async def shipped() -> bool:
            status = (await get(f"{self._base}/v1/status"))["pipelines"][self._spec.name]
            return bool(status["shipped"] == status["spooled"] >= len(wanted))

        await until(shipped, "the log has been shipped")
        async with Topic(kafka, topic("predictions", self._spec.name), self._spec.partitions) as log:
            found = await log.headers("ce_id", event_type=Prediction.TYPE)
        assert set(found) == wanted, f"{len(wanted - set(found))} answers are not in the log"
        assert set(found.values()) == {1}, "an answer is in the log twice"
        self._progress.step(f"checked: {len(wanted):,} answers, each once in the log")

    def _take(self, count: int) -> list[bytes]:
        self._asked += count
        return requests(self._url, self._spec, self._asked - count, count)

    async def _run(self, made: Sequence[bytes], width: int, rate: float | None) -> list[Sample]:
        self._progress.step(f"{len(made):,} requests over {width} connections" + (f", {rate:g}/s" if rate else ""))
        connections = await connect(self._url, width)
        samples = await Load(connections, made, rate=rate).run()
        for connection in connections:
            connection.close()
        refused = [sample for sample in samples if sample.status != 200]
        assert not refused, refused[0]
        self._answered += [json.loads(sample.body)["prediction_id"] for sample in samples]
        return samples


async def bare(url: str, spec: PipelineSpec) -> tuple[float, float]:
    """(p99 in milliseconds at the fixed rate, answers per second flat out) of a server that does nothing."""

    async def is_up() -> bool:
        try:
            (await connect(url, 1))[0].close()
        except OSError:
            return False
        return True

    await until(is_up, "the bare server")
    connections = await connect(url, CONNECTIONS)
    samples = await Load(connections, requests(url, spec, 0, RATE * 8), rate=RATE).run()
    started = time.monotonic()
    done = await Load(connections[:FLAT_OUT_CONNECTIONS], requests(url, spec, 0, FLAT_OUT)).run()
    return 1000 * percentile([s.done - s.due for s in samples], 0.99), len(done) / (time.monotonic() - started)


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress, spec = Progress(), pipeline()
    progress.step("the stack runs; a forest is trained")
    await apply(seen, spec)
    await fill(seen, spec)
    await release(seen, spec)
    predict = Predict(seen, spec, progress)
    await predict.ready()
    await predict.at_rate(WARM_UP_S)
    cpu = Cpu(seen)
    samples = await predict.at_rate(SECONDS)
    used = cpu_results(cpu.used(), len(samples), "request")
    flat_out = await predict.flat_out()
    await predict.check(seen.kafka)
    progress.step("a bare server with the same client")
    with echo() as url:
        bare_p99, bare_flat_out = await bare(url, spec)
    waits = [1000 * (s.done - s.due) for s in samples]
    achieved = (len(samples) - 1) / (max(s.done for s in samples) - min(s.done for s in samples))
    return [
        result("answered at 1,000/s due", achieved, "requests/s", target=RATE * 0.99),
        result("p99 from the due time", percentile(waits, 0.99), "ms", target=25,
               peer=("bare uvicorn", bare_p99)),
        result("p50 from the due time", percentile(waits, 0.5), "ms"),
        result("p99.9 from the due time", percentile(waits, 0.999), "ms"),
        result("flat out", flat_out, "requests/s", peer=("bare uvicorn", bare_flat_out)),
        *used,
    ]  # fmt: skip


if __name__ == "__main__":
    with stack("serving") as running:
        report("predict", uvloop.run(measure(running)))
