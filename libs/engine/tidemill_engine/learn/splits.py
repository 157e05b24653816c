"""Cuts rows by time: what trains, what calibrates, what the gate sees, and how much history is worth training on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tidemill_contracts.base import parse_duration
from tidemill_engine.arrays import Float32s, Float64s, Int64s
from tidemill_engine.learn.fitted import Fitted
from tidemill_engine.onnx import probabilities
from tidemill_engine.stats.metrics import log_loss

ALL = "all"
Fit = Callable[[Float32s, Float64s], Fitted]


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Row numbers by part, each in order of time, and the instants where calibration and gate begin."""

    train: Int64s
    calibration: Int64s
    gate: Int64s
    calibration_from_us: int
    gate_from_us: int


@dataclass(frozen=True, slots=True)
class WindowResult:
    """How one window did: training rows, and log-loss on the validation block, or why it was not tried."""

    window: str
    rows: int
    log_loss: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class WindowChoice:
    """The chosen window with all that spoke for it."""

    window: str
    results: tuple[WindowResult, ...]
    validation_rows: int
    validation_from_us: int
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class TimedRows:
    """Labelled rows: times [N] in microseconds, float32 features [N, F], labels [N] of 0 and 1."""

    times_us: Int64s
    features: Float32s
    labels: Float64s

    def take(self, rows: Int64s) -> "TimedRows":
        """The rows of these numbers, in that order."""
        return TimedRows(self.times_us[rows], self.features[rows], self.labels[rows])

    def __len__(self) -> int:
        return len(self.times_us)


def split_recent(times_us: Int64s, *, calibration_us: int, gate_us: int, end_us: int | None = None) -> Split:
    """Cut rows by time into train, then calibration, then gate, which ends at `end_us` or else after the last row.

    Ties in time stay together, and rows at or after `end_us` are in no part. Durations are microseconds; 0 gives no
    block.
    """
    order = np.argsort(times_us, kind="stable").astype(np.int64)
    sorted_us = times_us[order]
    end = int(sorted_us[-1]) + 1 if end_us is None and len(order) else end_us or 0
    gate_from = end - gate_us
    calibration_from = gate_from - calibration_us
    first, second, last = np.searchsorted(sorted_us, (calibration_from, gate_from, end), side="left")
    return Split(order[:first], order[first:second], order[second:last], calibration_from, gate_from)


def choose_window(  # noqa: PLR0913 - the rows and the five settings of one choice
    rows: TimedRows,
    *,
    windows: Sequence[str],
    validation_us: int,
    fit: Fit,
    minimum_rows: int = 1000,
    margin: float = 0.0,
) -> WindowChoice:
    """Train on each window (`30d`, `all`) before the last `validation_us` of rows, and take the lowest log-loss there.

    A window with too few rows, or of one class, is passed over; a shorter one must beat
    a longer one by more than `margin`, so of equal ones the longer wins. Without a usable
    validation block or window the longest is taken, and the reason says so. The caller trains the chosen window anew,
    up to the end.
    """
    if not windows:
        raise ValueError("no windows to choose from")
    ordered = sorted(dict.fromkeys(windows), key=_length, reverse=True)
    split = split_recent(rows.times_us, calibration_us=0, gate_us=validation_us)
    validation = rows.take(split.gate)
    history = rows.take(split.train)
    if len(validation) == 0 or len(ordered) == 1:
        reason = "one window only" if len(ordered) == 1 else "no validation rows"
        return WindowChoice(ordered[0], (), len(validation), split.gate_from_us, reason)
    results = tuple(_try(window, history, validation, split.gate_from_us, fit, minimum_rows) for window in ordered)
    best: WindowResult | None = None
    for result in results:  # from the longest to the shortest
        if result.log_loss is not None and (best is None or result.log_loss < (best.log_loss or 0.0) - margin):
            best = result
    chosen, reason = (best.window, "lowest log-loss") if best is not None else (ordered[0], "no window had enough rows")
    return WindowChoice(chosen, results, len(validation), split.gate_from_us, reason)


def window_start(window: str, end_us: int) -> int | None:
    """Where a window that ends at `end_us` begins, in microseconds; None for `all`."""
    return None if window == ALL else end_us - parse_duration(window)


def _try(window: str, history: TimedRows, validation: TimedRows, end_us: int, fit: Fit, minimum: int) -> WindowResult:  # noqa: PLR0913 - one private step of choose_window
    start = window_start(window, end_us)
    first = 0 if start is None else int(np.searchsorted(history.times_us, start, side="left"))
    features, labels = history.features[first:], history.labels[first:]
    if len(labels) < minimum or labels.min(initial=1.0) == labels.max(initial=0.0):
        return WindowResult(window, len(labels), None, f"fewer than {minimum} rows, or one class only")
    scores = probabilities(fit(features, labels).raw_scores(validation.features))
    return WindowResult(window, len(labels), log_loss(validation.labels, scores))


def _length(window: str) -> float:
    return float("inf") if window == ALL else float(parse_duration(window))
