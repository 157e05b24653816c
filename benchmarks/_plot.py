"""A curve as an SVG beside the figures, for whoever would rather see how something grows."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from _results import FOLDER

Curve = Sequence[tuple[float, float]]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 20, 44, 52
COLOURS = ("#1f6f8b", "#d1495b", "#5b8c5a", "#8a6fae")
MOST_MARKS = 8


class Axis(NamedTuple):
    """What it says, and whether equal steps are equal factors."""

    name: str
    is_log: bool = False

    def scale(self, low: float, high: float, start: float, end: float) -> Callable[[float], float]:
        """From a value between `low` and `high` to its place between `start` and `end`."""
        turn = math.log10 if self.is_log else float
        first, span = turn(low), turn(high) - turn(low) or 1.0
        return lambda value: start + (turn(value) - first) / span * (end - start)

    def marks(self, low: float, high: float) -> list[float]:
        """Round values on it: powers of ten, or steps of 1, 2 or 5 times one."""
        if self.is_log:
            return [10.0**power for power in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]
        magnitude = 10.0 ** math.floor(math.log10((high - low) or 1.0))
        steps = (magnitude * part for part in (0.1, 0.2, 0.5, 1.0, 2.0))
        step = next(each for each in steps if (high - low) / each <= MOST_MARKS)
        return [step * number for number in range(math.floor(low / step), math.ceil(high / step) + 1)]


def plot(name: str, title: str, x: Axis, y: Axis, curves: Mapping[str, Curve]) -> Path:
    """Write `build/bench/<name>.svg`; `curves` are points in ascending x. Linear y axes begin at zero."""
    xs, ys = ([point[place] for curve in curves.values() for point in curve] for place in (0, 1))
    right, up = x.marks(min(xs), max(xs)), y.marks(min(ys) if y.is_log else 0.0, max(ys))
    at_x = x.scale(right[0], right[-1], LEFT, WIDTH - RIGHT)
    at_y = y.scale(up[0], up[-1], HEIGHT - BOTTOM, TOP)
    parts = [f"<text x='{WIDTH / 2}' y='18' text-anchor='middle' font-size='15'>{escape(title)}</text>"]
    parts += [_text(at_x(mark), HEIGHT - BOTTOM + 18, f"{mark:,.10g}", "middle") for mark in right]
    for mark in up:
        place = at_y(mark)
        parts.append(f"<line x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{place:.1f}' y2='{place:.1f}' stroke='#ddd'/>")
        parts.append(_text(LEFT - 8, place + 4, f"{mark:,.10g}", "end"))
    for number, (label, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(at_x(here), at_y(value)) for here, value in curve]
        parts += [f"<path d='M{a:.1f} {b:.1f}L{c:.1f} {d:.1f}' stroke='{colour}' stroke-width='2'/>"
                  for (a, b), (c, d) in pairwise(points)]  # fmt: skip
        parts += [f"<circle cx='{a:.1f}' cy='{b:.1f}' r='3.5' fill='{colour}'/>" for a, b in points]
        parts.append(f"<text x='{LEFT + 12 + 150 * number}' y='36' fill='{colour}'>{escape(label)}</text>")
    parts.append(_text(WIDTH / 2, HEIGHT - 12, x.name, "middle"))
    parts.append(
        f"<text transform='translate(16 {HEIGHT / 2}) rotate(-90)' text-anchor='middle'>{escape(y.name)}</text>"
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.svg"
    path.write_text(
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {HEIGHT}' font-family='sans-serif' "
        f"font-size='12' fill='#333'><rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>{''.join(parts)}</svg>\n"
    )
    return path


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'>{escape(text)}</text>"
