"""What is shown of the demo while it runs: a live view on a terminal, a line every few seconds elsewhere."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tidemill.client.transport import AsyncTransport, TidemillError
from tidemill.demo.flights import DAY, START_US
from tidemill.demo.quality import BASELINE
from tidemill.demo.replay import Progress
from tidemill.demo.run import Demo
from tidemill_engine.stats import LossSums

DRAW_S, POLL_S, LINE_S = 0.25, 2.0, 5.0
ROLLING_DAYS = 7
PHASES = {
    "starting": "starting", "stack": "starting Kafka, Postgres and the services", "data": "reading the flights",
    "apply": "applying the pipeline", "january": "January: events only", "first_model": "training the first model",
    "loop": "the loop", "drain": "waiting for the last labels", "report": "taking the counts",
}  # fmt: skip


@dataclass(slots=True)
class Seen:
    """What the services said last: decisions so far, and both log-losses over the last days of labels."""

    loop: float | None = None
    frozen: float | None = None
    drifts: int = 0
    runs: int = 0
    releases: int = 0


@dataclass(slots=True)
class Rate:
    """A count's growth per second over the last few readings."""

    readings: list[tuple[float, int]] = field(default_factory=list)

    def read(self, count: int, now_s: float, *, over_s: float = 15.0) -> float:
        """Take a reading and return the rate; 0 until there are two."""
        self.readings = [each for each in self.readings if each[0] > now_s - over_s] + [(now_s, count)]
        (first_s, first), (last_s, last) = self.readings[0], self.readings[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def rolling(items: Iterable[Mapping[str, Any]], *, days: int = ROLLING_DAYS) -> tuple[float | None, float | None]:
    """Mean log-loss of the answers and of the frozen model over the newest days, from monitoring's exact sums."""
    overall = [item for item in items if not item["segment"]]
    since = max((item["pane_us"] for item in overall), default=0) - (days - 1) * DAY
    answers, frozen = LossSums(), LossSums()
    for item in overall:
        if item["pane_us"] >= since:
            answers += LossSums.from_dict(item["sums"])
            frozen += LossSums.from_dict(item["shadows"].get(BASELINE, {}))
    return answers.mean_log_loss, frozen.mean_log_loss


async def look(transport: AsyncTransport, pipeline: str) -> Seen:
    """Ask the services; raises TidemillError when one of them does not answer."""
    metrics = await transport.call("monitoring", "GET", f"/v1/pipelines/{pipeline}/metrics")
    drifts = await transport.call("monitoring", "GET", f"/v1/pipelines/{pipeline}/drifts")
    releases = await transport.call("registry", "GET", f"/v1/pipelines/{pipeline}/releases")
    runs = await transport.call("trainer", "GET", "/v1/runs")
    loop, frozen = rolling(metrics["items"])
    return Seen(loop, frozen, len(drifts["items"]), len(runs["runs"]), len(releases["releases"]))


class View:
    """The state of what is shown, and its two forms."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.seen = progress, Seen()
        self._started_s = time.monotonic()
        self._rate, self._per_second = Rate(), 0.0

    def tick(self) -> None:
        """Take the readings that a rate needs."""
        self._per_second = self._rate.read(self.progress.predictions, time.monotonic())

    def line(self) -> str:
        """One line for a log."""
        p, s = self.progress, self.seen
        quality = f"log-loss {_number(s.loop)} (frozen {_number(s.frozen)})" if s.loop is not None else "no labels yet"
        return (
            f"{self._elapsed()} {PHASES.get(p.phase, p.phase)}: {_day(p.now_us)}, {p.events:,} events, "
            f"{p.predictions:,} predictions ({self._per_second:,.0f}/s), {quality}, "
            f"{s.drifts} drifts, {s.runs} runs, {s.releases} releases"
        )

    def __rich__(self) -> RenderableType:
        p, s = self.progress, self.seen
        facts = Table.grid(padding=(0, 3))
        facts.add_row(
            _fact(p.events, "events"), _fact(p.predictions, "predictions"), _fact(self._per_second, "per second")
        )
        facts.add_row(_fact(s.drifts, "drifts"), _fact(s.runs, "training runs"), _fact(s.releases, "releases"))
        facts.add_row(_loss(s.loop, "loop, 7-day log-loss"), _loss(s.frozen, "frozen January model"), _gain(s))
        waits = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in sorted(p.waits.items())) or "none"
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        span = max(p.end_us - START_US, 1)
        bar.add_row(ProgressBar(total=span, completed=min(max(p.now_us - START_US, 0), span)), _day(p.now_us))
        title = Text.assemble((PHASES.get(p.phase, p.phase), "bold"), f"   {self._elapsed()}")
        return Group(title, bar, "", facts, "", Text(f"waited for: {waits}", style="dim"))

    def _elapsed(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self._started_s), 60)
        return f"{minutes}:{seconds:02d}"


@asynccontextmanager
async def shown(demo: Demo, pipeline: str, console: Console, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Show the demo on the console, or as lines, for as long as the block lasts."""
    view = View(demo.progress)
    drawing = _draw(view, console) if console.is_terminal else _write(view, say)
    tasks = [asyncio.create_task(drawing), asyncio.create_task(_watch(view, demo, pipeline))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _draw(view: View, console: Console) -> None:
    with Live(view, console=console, refresh_per_second=1 / DRAW_S, transient=True):
        while True:
            await asyncio.sleep(DRAW_S)
            view.tick()


async def _write(view: View, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(LINE_S)
        view.tick()
        say(view.line())


async def _watch(view: View, demo: Demo, pipeline: str) -> None:
    """Look every now and then, over connections of its own, so that the run's retries count only its own."""
    transport: AsyncTransport | None = None
    try:
        while True:
            if transport is None and demo.transport is not None:
                transport = AsyncTransport(demo.transport.endpoints, patience_s=0.0)
            if transport is not None:
                with contextlib.suppress(TidemillError):  # a killed service, or one that does not know the pipeline yet
                    view.seen = await look(transport, pipeline)
            await asyncio.sleep(POLL_S)
    finally:
        if transport is not None:
            await transport.close()


def _fact(value: float, what: str) -> Text:
    return Text.assemble((f"{value:>9,.0f} ", "bold"), (what, "dim"))


def _loss(value: float | None, what: str) -> Text:
    return Text.assemble((f"{_number(value):>9} ", "bold"), (what, "dim"))


def _gain(seen: Seen) -> Text:
    if not seen.loop or not seen.frozen:
        return Text("")
    gain = 1 - seen.loop / seen.frozen
    return Text(f"{abs(gain):.1%} {'better' if gain >= 0 else 'worse'}", style="green" if gain >= 0 else "red")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _day(us: int) -> str:
    return datetime.fromtimestamp(us / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M")
