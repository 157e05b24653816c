"""The report's picture: both log-loss curves over event time, and under them what happened when."""

import html
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 1120, 420, 64, 16, 26, 34
LANES = (("change", "truth changes"), ("drift", "drift"), ("training", "training"), ("releases", "release"))
DAY = 86_400_000_000
MOST_LINES = 7
Scale = Callable[[float], float]
"""From a value to its place in the picture."""


def picture(timeline: dict[str, Any]) -> str:
    """A figure with an SVG of both curves and a lane of marks for each kind of decision."""
    curves = timeline["curves"]
    days = curves["day_us"]
    if not days:
        return "<p>There are no labelled predictions yet.</p>"
    low_us, high_us = days[0], days[-1] + DAY
    values = [v for name in ("loop", "frozen") for v in curves[name] if v is not None]
    low, high = min(values) - 0.01, max(values) + 0.01
    plot_bottom = HEIGHT - BOTTOM - 22 * len(LANES)

    def x(us: float) -> float:
        place: float = LEFT + (us - low_us) / (high_us - low_us) * (WIDTH - LEFT - RIGHT)
        return place

    def y(value: float) -> float:
        place: float = TOP + (high - value) / (high - low) * (plot_bottom - TOP)
        return place

    parts = [*_grid(low, high, y), *_months(low_us, high_us, x, plot_bottom)]
    for name in ("frozen", "loop"):
        points = " ".join(
            f"{x(d + DAY / 2):.1f},{y(v):.1f}" for d, v in zip(days, curves[name], strict=True) if v is not None
        )
        parts.append(f"<polyline fill=none stroke='var(--{name})' stroke-width=2 points='{points}'/>")
    parts += _lanes(timeline, x, plot_bottom)
    legend = "".join(
        f"<span><i style='background:var(--{n})'></i>{t}</span>"
        for n, t in (("loop", "loop, 7-day log-loss"), ("frozen", "frozen January model"))
    )
    return (
        f"<figure><div class=legend>{legend}</div><svg viewBox='0 0 {WIDTH} {HEIGHT}' role=img "
        "aria-label='Rolling log-loss of loop and frozen model with drifts, trainings and releases'>"
        f"{''.join(parts)}</svg></figure>"
    )


def _grid(low: float, high: float, y: Scale) -> Iterable[str]:
    step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 10.0) if (high - low) / s <= MOST_LINES)
    value = (int(low / step) + 1) * step
    while value < high:
        yield f"<line x1={LEFT} x2={WIDTH - RIGHT} y1={y(value):.1f} y2={y(value):.1f} stroke='var(--line)'/>"
        yield f"<text x={LEFT - 8} y={y(value) + 4:.1f} text-anchor=end>{value:.2f}</text>"
        value += step


def _months(low_us: int, high_us: int, x: Scale, bottom: float) -> Iterable[str]:
    for month in range(1, 14):
        start = datetime(2013 + (month - 1) // 12, (month - 1) % 12 + 1, 1, tzinfo=UTC)
        us = int(start.timestamp() * 1_000_000)
        if low_us <= us <= high_us:
            yield f"<line x1={x(us):.1f} x2={x(us):.1f} y1={TOP} y2={bottom} stroke='var(--line)'/>"
            yield f"<text x={x(us) + 4:.1f} y={TOP - 8}>{start:%B}</text>"


def _lanes(timeline: dict[str, Any], x: Scale, bottom: float) -> Iterable[str]:
    change = timeline["change_us"]
    marks = {
        "change": [] if change is None else [(change, "the truth changes")],
        "drift": [(e["at_us"], f"{e['kind']}: {e['subject']} {e['effect']:+.3f}") for e in timeline["events"]["drift"]],
        "training": [
            (e["at_us"], e["cause"]["kind"])
            for e in timeline["events"]["training"]
            if "request_id" in e and "cause_id" not in e
        ],
        "releases": [
            (e["effective_at_us"] or e["at_us"], f"epoch {e['epoch']}") for e in timeline["events"]["releases"]
        ],
    }
    for row, (lane, label) in enumerate(LANES):
        middle = bottom + 20 + 22 * row
        yield f"<text x={LEFT - 8} y={middle + 4} text-anchor=end>{label.split()[-1]}</text>"
        yield f"<line x1={LEFT} x2={WIDTH - RIGHT} y1={middle} y2={middle} stroke='var(--line)'/>"
        for us, title in marks[lane]:
            at, colour = max(x(us), LEFT), f"var(--{lane})"
            yield f"<circle cx={at:.1f} cy={middle} r=5 fill='{colour}'><title>{html.escape(title)}</title></circle>"
            if lane in {"change", "releases"}:
                line = f"<line x1={at:.1f} x2={at:.1f} y1={TOP} y2={middle} stroke='{colour}'"
                yield f"{line} stroke-dasharray='3 4' opacity=.55 />"
