"""How good the loop was, and how good the frozen first model would have been on the very same predictions."""

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tidemill.demo.flights import DAY, HOUR
from tidemill.ledger.topics import body, read_topic
from tidemill_contracts.topics import topic
from tidemill_engine.stats import evaluate, row_log_loss

BASELINE = "baseline"
NEW_YORK_WINTER_US = 5 * HOUR
"""Months are cut at midnight in New York without daylight saving, where the demo's year begins."""


@dataclass(slots=True)
class Scores:
    """Columns of all outcomes in order: when predicted, label, the loop's score, the frozen model's.

    `newest` is the id of the prediction that was labelled last.
    """

    predicted_us: list[int] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    loop: list[float] = field(default_factory=list)
    frozen: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    newest: str | None = None


async def read_scores(bootstrap: str, pipeline: str, *, prefix: str = "tidemill") -> Scores:
    """All outcomes, each once: their dense number drops repeats."""
    scores, following = Scores(), 0
    async for record in read_topic(bootstrap, topic("outcomes", pipeline, prefix=prefix)):
        outcome = body(record)
        if outcome.get("seq") != following:
            continue
        following += 1
        scores.predicted_us.append(outcome["predicted_us"])
        scores.labels.append(outcome["label"])
        scores.loop.append(outcome["score"])
        scores.frozen.append(outcome["shadows"].get(BASELINE, outcome["score"]))
        scores.epochs.append(outcome["epoch"])
        scores.newest = outcome["prediction_id"]
    return scores


def quality(scores: Scores, *, since_us: int | None = None) -> dict[str, Any]:
    """Log-loss, Brier, AUC, PR-AUC and n of loop and frozen model, overall and by month, from `since_us` on."""
    times = np.array(scores.predicted_us, dtype=np.int64)
    columns = (np.array(scores.labels), np.array(scores.loop), np.array(scores.frozen))
    keep = times >= (since_us if since_us is not None else np.iinfo(np.int64).min)
    months = np.array([_month(us) for us in times.tolist()])
    out: dict[str, Any] = {**_both(columns, keep), "months": {}}
    for month in sorted(set(months[keep].tolist())):
        out["months"][month] = _both(columns, keep & (months == month))
    return out


def daily_curves(scores: Scores, *, window_days: int = 7) -> dict[str, list[float | int | None]]:
    """Rolling log-loss of loop and frozen model over the days before each day, for the report's picture."""
    times = np.array(scores.predicted_us, dtype=np.int64)
    if not len(times):
        return {"day_us": [], "loop": [], "frozen": []}
    days = times // DAY
    first, count = int(days.min()), int(days.max() - days.min()) + 1
    rows = np.bincount(days - first, minlength=count)
    curves: dict[str, list[float | int | None]] = {"day_us": [(first + i) * DAY for i in range(count)]}
    for name, values in (("loop", scores.loop), ("frozen", scores.frozen)):
        losses = np.bincount(
            days - first, weights=row_log_loss(np.array(scores.labels), np.array(values)), minlength=count
        )
        kernel = np.ones(window_days)
        total, n = np.convolve(losses, kernel)[:count], np.convolve(rows, kernel)[:count]
        curves[name] = [float(a / b) if b else None for a, b in zip(total, n, strict=True)]
    return curves


def _both(columns: tuple[Any, Any, Any], keep: Any) -> dict[str, Any]:  # noqa: ANN401 - numpy columns and a mask
    labels, loop, frozen = (column[keep] for column in columns)
    return {name: _measures(labels, values) for name, values in (("loop", loop), ("frozen", frozen))}


def _measures(labels: Any, values: Any) -> dict[str, Any]:  # noqa: ANN401 - numpy columns
    measured = asdict(evaluate(labels, values))
    return {name: measured[name] for name in ("log_loss", "brier", "auc", "pr_auc", "n")}


def _month(us: int) -> str:
    return datetime.fromtimestamp((us - NEW_YORK_WINTER_US) / 1_000_000, UTC).strftime("%Y-%m")
