"""One-row requests of the Open Inference Protocol on one core: Tidemill, MLServer and a bare echo in the same run.

The same bodies go to all three over 64 connections, in turns; each answer of the two servers is compared with the
offline model, and each answer of Tidemill must stand in its log once. The best of several short turns counts.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import numpy as np
import psutil
import uvloop
from _client import ask, connect, percentile
from _cores import OTHERS, SERVER, cpu_s, listener, on, pin
from _line import Answer
from _mlserver import VERSION, mlserver, ready
from _models import LOOKED_UP, PLAIN, Case, fill, forest, instances, release, tensors
from _peers import echo
from _results import Progress, Result, report, result
from _rush import Rush
from _stack import Topic, apply, get, stack, until

from tidemill.stack import Endpoints
from tidemill_contracts import topic
from tidemill_contracts.pipeline import PipelineSpec

CONNECTIONS, FEW = 64, 8
ROWS = 64
TURNS, SECONDS = int(os.environ.get("BENCH_TURNS", "4")), float(os.environ.get("BENCH_SECONDS", "3"))
ECHO, MLSERVER, MLSERVER_BLOCKS = "bare uvicorn", f"MLServer {VERSION}", "MLServer, 64 rows"
TENSORS, ENTITIES, ALONE, BLOCKS = "tensors", "entities", "tensors, one connection", "tensors, 64 rows"


def scores_of(answer: Answer) -> list[float]:
    """What an answer says, of either interface."""
    body = json.loads(answer.body)
    return list(body["outputs"][0]["data"]) if "outputs" in body else [body["score"]]


def check(case: Case, answers: Sequence[Answer]) -> None:
    """Every answer is good and has the scores of the offline model."""
    for answer in answers:
        assert answer.status == 200, (answer.status, answer.body)
        np.testing.assert_allclose(scores_of(answer), case.scores[answer.number], rtol=0, atol=1e-6)


class Best:
    """The best turn of each contender."""

    def __init__(self, progress: Progress) -> None:
        self.rates: dict[str, float] = {}
        self.waits: dict[str, tuple[float, float]] = {}
        self.costs: dict[str, float] = {}
        self.answered: dict[str, list[str]] = {}
        self._progress = progress

    async def turn(self, name: str, url: str, case: Case, connections: int, log: str | None = None) -> None:
        """One turn, checked; `log` is the pipeline whose log must hold the answers."""
        process = listener(url)
        assert set(process.cpu_affinity()) == SERVER, f"{name} does not have its core for itself"
        before = cpu_s(process)
        rush = await Rush(url, case.requests).closed(connections, SECONDS)
        cost = 1e6 * (cpu_s(process) - before) / len(rush.answers)
        self._progress.step(f"{name:<28}{rush.rate:>10,.0f}/s, {cost:,.1f} us of its processor each")
        self.costs[name] = min(cost, self.costs.get(name, cost))
        if not np.isnan(case.scores).any():
            check(case, rush.answers)
        if log is not None:
            self.answered.setdefault(log, []).extend(map(identity, (*rush.first, *rush.answers)))
        if rush.rate > self.rates.get(name, 0.0):
            self.rates[name] = rush.rate
        waits = sorted(1000 * seconds for seconds in rush.latencies())
        mine = percentile(waits, 0.5), percentile(waits, 0.99)
        self.waits[name] = min(mine, self.waits.get(name, mine))


def identity(answer: Answer) -> str:
    """The id under which an answer is logged."""
    body = json.loads(answer.body)
    return str(body.get("prediction_id") or body["id"])


async def logged(seen: Endpoints, spec: PipelineSpec, wanted: Sequence[str], progress: Progress) -> None:
    """Every answered id stands in the log, once."""
    base = seen.services["serving"].url

    async def shipped() -> bool:
        spool = (await get(f"{base}/v1/status"))["spool"]
        return bool(spool["position"] == spool["records"])

    await until(shipped, "the log has been shipped", deadline_s=600)
    async with Topic(seen.kafka, topic("predictions", spec.name), spec.partitions) as log:
        found = await log.headers("ce_id")
    missing = sum(found[each] != 1 for each in wanted)
    assert not missing, f"{missing:,} of {len(wanted):,} answers are not in the log once"
    progress.step(f"checked: {len(wanted):,} answers of {spec.name}, each once in the log")


async def first(url: str, case: Case) -> None:
    """Until a request is answered from vectors."""
    connection = (await connect(url, 1))[0]

    async def answers() -> bool:
        status, body = await ask(connection, case.requests[0])
        return status == 200 and not json.loads(body).get("defaulted")

    await until(answers, f"an answer of {url}")
    connection.close()


async def prepare(seen: Endpoints) -> Mapping[str, bytes]:
    """Both pipelines with their forests; the models by pipeline."""
    models = {}
    for spec in (PLAIN, LOOKED_UP):
        models[spec.name] = forest(spec)
        await apply(seen, spec)
        await fill(seen, spec)
        await release(seen, spec, models[spec.name])
    return models


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress = Progress()
    progress.step("the stack runs; two forests are trained")
    models = await prepare(seen)
    with ExitStack() as peers:
        with on(SERVER):
            theirs = peers.enter_context(mlserver(models[PLAIN.name]))
            bare = peers.enter_context(echo())
        isolate(seen)
        await ready(theirs)
        best = await turns(seen, (bare, theirs), models, progress)
    return results(best)


def isolate(seen: Endpoints) -> None:
    """Serving has a core for itself; everything else, the load too, shares the others."""
    os.sched_setaffinity(0, OTHERS)
    for name, process in seen.processes.items():
        pin(process.pid or 0, SERVER if name == "serving" else OTHERS)
    pin(psutil.Process(seen.processes["serving"].pid or 0).ppid(), OTHERS, alone=True)  # who starts the others anew


async def turns(seen: Endpoints, peers: tuple[str, str], models: Mapping[str, bytes], progress: Progress) -> Best:
    """All contenders in turns."""
    (bare, theirs), base, best, model = peers, seen.services["serving"].url, Best(progress), models[PLAIN.name]
    plain, looked_up = f"{base}/v2/models/{PLAIN.name}/infer", f"{base}/v1/predict/{LOOKED_UP.name}"
    one, many = tensors(plain, model, rows=1), tensors(plain, model, rows=ROWS, count=64)
    entity = instances(looked_up, models[LOOKED_UP.name])
    their_one, their_many = tensors(theirs, model, rows=1), tensors(theirs, model, rows=ROWS, count=64)
    echoed = Case(tensors(bare, model, rows=1).requests, one.scores * np.nan)
    for url, case in ((plain, one), (looked_up, entity)):
        await first(url, case)
    for _ in range(TURNS):
        await best.turn(ECHO, bare, echoed, CONNECTIONS)
        await best.turn(TENSORS, plain, one, CONNECTIONS, PLAIN.name)
        await best.turn(ENTITIES, looked_up, entity, CONNECTIONS, LOOKED_UP.name)
        await best.turn(MLSERVER, theirs, their_one, CONNECTIONS)
        await best.turn(ALONE, plain, one, 1, PLAIN.name)
        await best.turn(BLOCKS, plain, many, FEW, PLAIN.name)
        await best.turn(MLSERVER_BLOCKS, theirs, their_many, FEW)
    for spec in (PLAIN, LOOKED_UP):
        await logged(seen, spec, best.answered[spec.name], progress)
    return best


def results(best: Best) -> list[Result]:
    """The figures beside their peers: the best turn of each, and the same by processor time of the server.

    Where other things run on the machine, rates say how much of a core was left; processor time says what a request
    costs.
    """
    rates, costs = best.rates, best.costs
    theirs, bare = rates[MLSERVER], rates[ECHO]
    p50, p99 = best.waits[ALONE]
    return [
        result("one row against MLServer", rates[TENSORS], "requests/s", target=12 * theirs, peer=(MLSERVER, theirs)),
        result("one row against an echo", rates[TENSORS], "requests/s", target=0.6 * bare, peer=(ECHO, bare)),
        result("60 features against one row", rates[ENTITIES], "requests/s", target=0.8 * rates[TENSORS],
               peer=(TENSORS, rates[TENSORS])),
        result("64 rows against MLServer", rates[BLOCKS], "requests/s", target=3 * rates[MLSERVER_BLOCKS],
               peer=(MLSERVER, rates[MLSERVER_BLOCKS])),
        result("CPU, one row", costs[TENSORS], "us", target=costs[MLSERVER] / 12, peer=(MLSERVER, costs[MLSERVER])),
        result("CPU, one row", costs[TENSORS], "us", target=costs[ECHO] / 0.6, peer=(ECHO, costs[ECHO])),
        result("CPU, 60 features", costs[ENTITIES], "us", target=costs[TENSORS] / 0.8, peer=(TENSORS, costs[TENSORS])),
        result("CPU, 64 rows", costs[BLOCKS], "us", target=costs[MLSERVER_BLOCKS] / 3,
               peer=(MLSERVER, costs[MLSERVER_BLOCKS])),
        result("one connection, p50", p50, "ms", target=1.0),
        result("one connection, p99", p99, "ms", target=3.0),
        result("64 connections, p99", best.waits[TENSORS][1], "ms", peer=(MLSERVER, best.waits[MLSERVER][1])),
    ]  # fmt: skip


if __name__ == "__main__":
    with stack("serving") as running:
        report("serving-throughput", uvloop.run(measure(running)))
