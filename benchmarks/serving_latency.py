"""How long answers take as the load grows: requests on time at shares of the saturation rate, then at twice that rate.

Latency counts from when a request was due, so that a stall counts for all who waited in it. Above saturation what is
accepted must stay fast and the rest must be refused; every good answer is compared with the offline model.
"""

import os
from collections import Counter
from contextlib import ExitStack

import psutil
import uvloop
from _client import percentile
from _cores import SERVER, cpu_s, listener, on
from _least import refuser
from _line import Answer
from _models import PLAIN, Case, fill, forest, release, tensors
from _plot import Axis, plot
from _results import Progress, Result, report, result
from _rush import Rush
from _stack import apply, stack
from serving_throughput import check, first, identity, isolate, logged

from tidemill.stack import Endpoints

CONNECTIONS, CROWD = 64, 4000
SHARES = (0.2, 0.5, 0.65, 0.8, 0.9, 0.95)
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
MIB = 1024 * 1024


class Latency:
    """The runs against one server."""

    def __init__(self, url: str, case: Case, progress: Progress) -> None:
        self._url, self._case, self._progress = url, case, progress
        self.answered: list[str] = []

    async def saturation(self) -> float:
        """Answers per second when every connection asks again at once; the middle of three turns."""
        rates = []
        for _ in range(3):
            rush = await Rush(self._url, self._case.requests).closed(CONNECTIONS, SECONDS)
            self._note([*rush.first, *rush.answers])
            rates.append(rush.rate)
        self._progress.step(f"saturation {sorted(rates)[1]:,.0f}/s")
        return sorted(rates)[1]

    async def at(self, rate: float, connections: int) -> Rush:
        """Requests at a rate."""
        rush = await Rush(self._url, self._case.requests).open(connections, rate, SECONDS)
        statuses = Counter(answer.status for answer in rush.answers)
        assert set(statuses) <= {200, 503}, statuses
        self._note([answer for answer in (*rush.first, *rush.answers) if answer.status == 200])
        waits = sorted(rush.latencies())
        p50, p99 = (1000 * percentile(waits, share) for share in (0.5, 0.99))
        self._progress.step(f"{rate:,.0f}/s: p50 {p50:.2f} ms, p99 {p99:.2f} ms, {dict(statuses)}")
        return rush

    def _note(self, answers: list[Answer]) -> None:
        check(self._case, answers)
        self.answered += map(identity, answers)


def resident(process: psutil.Process) -> float:
    """Memory of a process in MiB."""
    return float(process.memory_info().rss) / MIB


async def refusing(case: Case, rate: float) -> float:
    """Processor seconds of one refusal by a server that does nothing else, on the same core with the same load.

    With it follows what goodput `g` the processor leaves to a server that saturates at `s`: an answer takes `1 / s`,
    and of `2 s` requests per second those that are not answered are refused, `g / s + (2 s - g) r = 1`.
    """
    with ExitStack() as started:
        with on(SERVER):
            url = started.enter_context(refuser())
        process, before = listener(url), list[float]()
        rush = await Rush(url, case.requests).open(CROWD, rate, SECONDS, begins=lambda: before.append(cpu_s(process)))
        return (cpu_s(process) - before[0]) / len(rush.answers)


async def measure(seen: Endpoints) -> list[Result]:
    """All figures."""
    progress, model = Progress(), forest(PLAIN)
    progress.step("the stack runs; a forest is trained")
    await apply(seen, PLAIN)
    await fill(seen, PLAIN)
    await release(seen, PLAIN, model)
    url = f"{seen.services['serving'].url}/v2/models/{PLAIN.name}/infer"
    case = tensors(url, model, rows=1)
    await first(url, case)
    isolate(seen)
    latency, process, found = Latency(url, case, progress), listener(url), []
    saturation = await latency.saturation()
    curves: dict[str, list[tuple[float, float]]] = {"p50": [], "p99": []}
    for share in SHARES:
        waits = sorted(1000 * wait for wait in (await latency.at(share * saturation, CONNECTIONS)).latencies())
        for name, part in (("p50", 0.5), ("p99", 0.99)):
            curves[name].append((100 * share, percentile(waits, part)))
            found.append(result(f"{name} at {share:.0%}", percentile(waits, part), "ms"))
    axes = Axis("% of the saturation rate"), Axis("ms from when a request was due", is_log=True)
    plot("serving-latency", "One-row requests at a rate, by load", *axes, curves)
    await latency.at(2 * saturation, CROWD)  # buffers of so many connections are no growth
    before = resident(process)
    over = await latency.at(2 * saturation, CROWD)
    grown = resident(process) - before
    await logged(seen, PLAIN, latency.answered, progress)
    least_s = await refusing(case, 2 * saturation)
    progress.step(f"the kernel needs {1e6 * least_s:.1f} us for a request that is read and refused")
    room = (1 - 2 * saturation * least_s) / (1 / saturation - least_s)
    waits = sorted(1000 * wait for wait in over.latencies())
    return [
        result("saturation", saturation, "requests/s"),
        *found,
        result("goodput at 200%", over.rate, "requests/s", target=0.9 * saturation, peer=("saturation", saturation)),
        result(
            "goodput at 200%", over.rate, "requests/s", peer=("a refusal that costs what its system calls do", room)
        ),
        result("p99 of what was accepted at 200%", percentile(waits, 0.99), "ms", target=100),
        result("refused at 200%", sum(answer.status == 503 for answer in over.answers), "requests"),
        result("memory grown at 200%", grown, "MiB", target=64),
    ]


if __name__ == "__main__":
    with stack("serving") as running:
        report("serving-latency", uvloop.run(measure(running)))
