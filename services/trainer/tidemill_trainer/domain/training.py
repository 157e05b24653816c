"""One training: rows are cut by time into train, calibration and gate; the window is chosen inside the first.

The released bytes are the gated ones: nothing is fitted again after the gate's rows were looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tidemill_contracts.events import TrainingRequested
from tidemill_contracts.pipeline import ModelSpec, PipelineSpec
from tidemill_engine.learn import (
    Fitted,
    TimedRows,
    WindowChoice,
    choose_window,
    fit_lightgbm,
    fit_logistic,
    fit_platt,
    split_recent,
    window_start,
)
from tidemill_engine.onnx import Calibration, probabilities
from tidemill_trainer.domain.rows import Float32s, Floats, Rows

VALIDATION_TREES = 0.5
"""Share of the trees that the choice of the window is made with: the ranking needs no finished models."""

Progress = Callable[[str, float], None]


class TooFewRowsError(Exception):
    """There are not enough labelled rows to train, calibrate and gate a model."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """A fitted candidate, the rows that it was fitted to, and those that it never saw."""

    fitted: Fitted
    calibration: Calibration | None
    choice: WindowChoice
    learned: Rows
    gate: Rows
    parts: dict[str, int]
    base_rate: float

    def scores(self, features: Float32s) -> Floats:
        """Exact probabilities [N] of rows [N, F]; the ONNX bytes repeat them in float32."""
        raw = self.fitted.raw_scores(features)
        return (
            probabilities(raw)
            if self.calibration is None
            else probabilities(self.calibration.slope * raw + self.calibration.intercept)
        )


def fitter(model: ModelSpec, *, share: float = 1.0) -> Callable[[Float32s, Floats], Fitted]:
    """The trainer a pipeline names, with its parameters; `share` of the boosting rounds."""
    if model.trainer == "logistic":
        l2 = float(model.parameters.get("l2", 1e-4))
        return lambda features, labels: fit_logistic(features, labels, l2=l2)
    parameters = dict(model.parameters)
    rounds = int(parameters.get("num_iterations", 200))
    parameters["num_iterations"] = max(int(rounds * share), 1)
    return lambda features, labels: fit_lightgbm(features, labels, parameters, model.seed)


def train(
    spec: PipelineSpec, rows: Rows, request: TrainingRequested, progress: Progress = lambda _name, _share: None
) -> Trained:
    """Fit a candidate from the labelled rows known when it was asked for.

    Raises:
        TooFewRowsError: fewer than `model.minimum_rows` training rows, or one class only.
    """
    model = spec.model
    calibrated = calibrates(model, request)
    rows = rows.take(slice(max(len(rows) - model.maximum_rows, 0), None))
    split = split_recent(
        rows.labelled_us, calibration_us=model.calibration if calibrated else 0,
        gate_us=spec.gate.period_after(alarm=request.cause.kind == "drift"), end_us=request.at_us,
    )  # fmt: skip
    history = rows.take(split.train)
    if len(history) < model.minimum_rows or len(set(history.labels.tolist())) < 2:  # noqa: PLR2004 - two classes
        needed = f"{model.minimum_rows} of both classes are needed"
        msg = f"{len(history)} labelled rows before the calibration and gate periods; {needed}"
        raise TooFewRowsError(msg)
    progress("window", 0.1)
    timed = TimedRows(history.labelled_us, history.features, history.labels)
    choice = choose_window(
        timed, windows=model.windows, validation_us=model.validation,
        fit=fitter(model, share=VALIDATION_TREES), minimum_rows=model.minimum_rows, margin=model.window_margin,
    )  # fmt: skip
    progress("fit", 0.4)
    chosen = _within(history, choice.window, split.calibration_from_us)
    fitted = fitter(model)(chosen.features, chosen.labels)
    progress("calibrate", 0.8)
    recent = rows.take(split.calibration)
    calibration = _calibrate(fitted, recent) if calibrated else None
    gate = rows.take(split.gate)
    parts = {"train": len(chosen), "calibration": len(recent), "gate": len(gate)}
    return Trained(fitted, calibration, choice, chosen, gate, parts, float(chosen.labels.mean()))


def calibrates(model: ModelSpec, request: TrainingRequested) -> bool:
    """Whether to fit a calibration: its rows are lost to the trees, so by default only when scores were off."""
    return model.calibrate == "always" or (model.calibrate == "after_alarm" and request.cause.drift == "calibration")


def _within(history: Rows, window: str, end_us: int) -> Rows:
    start = window_start(window, end_us)
    if start is None:
        return history
    return history.take((history.labelled_us >= start).nonzero()[0])


def _calibrate(fitted: Fitted, recent: Rows) -> Calibration | None:
    """Platt's map on rows that the trees have not seen; none where they hold one class only."""
    if len(set(recent.labels.tolist())) < 2:  # noqa: PLR2004 - two classes
        return None
    return fit_platt(fitted.raw_scores(recent.features), recent.labels)
