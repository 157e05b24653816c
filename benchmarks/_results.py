"""What a benchmark found: a table for the reader, JSON for whoever compares."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "build" / "bench"


@dataclass(frozen=True, slots=True)
class Result:
    """One figure. `ratio` is value over peer; `met` is None where there is no target."""

    metric: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    target: float | None = None
    met: bool | None = None


def result(
    metric: str, value: float, unit: str, *, target: float | None = None, peer: tuple[str, float] | None = None
) -> Result:
    """A figure against its target: rates must reach it, times must stay below it."""
    met = None if target is None else (value >= target if unit.endswith("/s") else value < target)
    name, peer_value = peer or (None, None)
    ratio = None if not peer_value else round(value / peer_value, 4)
    return Result(
        metric, round(value, 3), unit, name, None if peer_value is None else round(peer_value, 3), ratio, target, met
    )


def cpu_results(used: Mapping[str, float], count: int, what: str) -> list[Result]:
    """Processor microseconds per `what` of every process of the stack that used any to speak of."""
    each = {name: 1e6 * seconds / count for name, seconds in used.items()}
    return [result(f"CPU of {name} per {what}", us, "us") for name, us in each.items() if us >= 1]


def report(name: str, results: list[Result]) -> None:
    """Write `build/bench/<name>.json` and print the table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps([asdict(each) for each in results], indent=2) + "\n")
    print(f"\n{'metric':<34}{'value':>12} {'unit':<10}{'target':>10}  {'met':<5}peer")
    for each in results:
        target = "" if each.target is None else f"{each.target:g}"
        met = {None: "", True: "yes", False: "NO"}[each.met]
        peer = "" if each.peer is None else f"{each.peer}: {each.peer_value:,.2f} (ratio {each.ratio})"
        print(f"{each.metric:<34}{each.value:>12,.2f} {each.unit:<10}{target:>10}  {met:<5}{peer}")


class Progress:
    """One line on standard error that says where things stand."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()

    def step(self, text: str) -> None:
        """Say it now."""
        self._said = time.monotonic()
        sys.stderr.write(f"{self._said - self._started:6.1f} s  {text}\n")
        sys.stderr.flush()

    def now_and_then(self, text: str) -> None:
        """Say it unless something was said within two seconds."""
        if time.monotonic() - self._said >= 2.0:
            self.step(text)
