"""What is predicted and how the model is kept good: request, label, model, gate, monitor, rollout, policy."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tidemill_contracts.base import Contract, Duration, FieldName, Name
from tidemill_contracts.pipeline.fields import FieldSpec

_DAY = 86_400_000_000
_HOUR = 3_600_000_000
_WORDS = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Expression = Annotated[str, Field(min_length=1, max_length=4096)]
Share = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1)]


def _is_empty(value: object) -> bool:
    """What is not used is not written, so that files without it keep their digests."""
    return not value


class CaptureSpec(Contract):
    """Request fields that are in the records of a share of the answers only, chosen by the prediction's id."""

    fields: list[FieldName] = Field(min_length=1, max_length=256)
    share: Share


class RequestSpec(Contract):
    """A prediction request: fields (entity keys are among them), join key, time, and features computed from them."""

    fields: dict[FieldName, FieldSpec] = Field(min_length=1, max_length=256)
    key: FieldName = Field(description="joins the label: the value of the label source's join field")
    time: FieldName | None = Field(
        default=None, description="timestamp field holding the event time; else the request's time"
    )
    features: dict[FieldName, Expression] = Field(default_factory=dict, max_length=256)
    redact: list[FieldName] = Field(
        default_factory=list, max_length=256, exclude_if=_is_empty,
        description="fields that are checked but never logged, not even on disk",
    )  # fmt: skip
    capture: CaptureSpec | None = Field(
        default=None, exclude_if=_is_empty, description="fields that are checked and logged for a share of the answers"
    )

    @property
    def unlogged(self) -> dict[str, str]:
        """Fields that stand in no record, or not in all: to the name of the rule that says so."""
        sampled = [] if self.capture is None else self.capture.fields
        return {**dict.fromkeys(sampled, "capture"), **dict.fromkeys(self.redact, "redact")}

    @model_validator(mode="after")
    def _unlogged_are_free(self) -> Self:
        """Such a field must not stand in the log under another name either: in a feature, the key or the time."""
        for name, rule in self.unlogged.items():
            if name not in self.fields:
                raise ValueError(f"{rule}: {name} is not a request field")
            if name in {self.key, self.time}:
                raise ValueError(f"{rule}: {name} is the {'key' if name == self.key else 'time'} of the request")
            for feature, text in self.features.items():
                if name in _WORDS.findall(text):
                    raise ValueError(f"{rule}: {name} could be read off the feature {feature}, which is logged")
        return self


class LabelSpec(Contract):
    """Where the truth comes from: events of `source` whose `join` field equals the prediction's key."""

    source: Name
    join: FieldName
    expression: Expression
    expiry: Duration = Field(
        default=30 * _DAY, description="a prediction without a label for this long is counted as expired"
    )


class ColdStartSpec(Contract):
    """Training rows before there is a log: one per event of `source`, at its field `time`, request fields by name."""

    source: Name
    time: FieldName
    align: Duration | None = Field(
        default=None, description="a row sees features as of the last multiple of this: how fresh serving's are"
    )


class ModelSpec(Contract):
    """How candidates are trained. `windows` are tried in a time-ordered validation; `all` is the whole history."""

    task: Literal["binary"] = "binary"
    trainer: Literal["lightgbm", "logistic"] = "lightgbm"
    windows: list[str] = Field(default=["30d", "90d", "all"], min_length=1, description="durations or `all`")
    parameters: dict[str, int | float | bool | str] = Field(default_factory=dict)
    seed: int = 7
    features: list[str] | None = Field(default=None, description="names used as inputs; none: all")
    calibrate: Literal["never", "after_alarm", "always"] = Field(
        default="after_alarm",
        description="when a Platt calibration is fitted; after_alarm: when label minus score had left its range",
    )
    calibration: Duration = Field(
        default=2 * _DAY, description="rows before the gate's that are kept from the trees for the calibration"
    )
    validation: Duration = Field(default=7 * _DAY, description="rows that choose the window")
    window_margin: float = Field(
        default=0.0, ge=0, description="log-loss by which a shorter window must beat a longer one"
    )
    minimum_rows: int = Field(default=1000, ge=1)
    maximum_rows: int = Field(default=2_000_000, ge=1)


class GateSpec(Contract):
    """No harm on rows never seen: non-inferior within `margin` at error `alpha`, a point estimate at least as good."""

    period: Duration = Field(
        default=7 * _DAY, description="the most recent labelled rows, kept from training for the gate"
    )
    block: Duration = Field(
        default=_DAY, gt=0, description="length of the blocks that the interval takes as independent"
    )
    alarm_period: Duration | None = Field(
        default=None, description="the gate's period after a drift alarm, when history misleads"
    )
    alarm_block: Duration | None = Field(default=None, description="the gate's block after a drift alarm")
    margin: float = Field(
        default=0.01, ge=0, description="log-loss a candidate may be worse by, at the upper confidence bound"
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    minimum_rows: int = Field(default=500, ge=1)
    minimum_blocks: int = Field(default=3, ge=2)
    segment_margin: float = Field(default=0.05, ge=0)
    segment_minimum_rows: int = Field(default=200, ge=1)
    parity: float = Field(default=1e-5, gt=0, description="largest difference between trainer and ONNX")
    maximum_bytes: int = Field(default=64 * 1024 * 1024, ge=1)

    def period_after(self, *, alarm: bool) -> int:
        """The gate's period in microseconds, after an alarm or otherwise."""
        return self.alarm_period if alarm and self.alarm_period is not None else self.period

    def block_after(self, *, alarm: bool) -> int:
        """The interval's block in microseconds, after an alarm or otherwise."""
        return self.alarm_block if alarm and self.alarm_block is not None else self.block


class DriftSpec(Contract):
    """Detectors. Panes are labelled rows for the paired detectors and time for the population test."""

    pane_rows: int = Field(default=200, ge=10)
    delta: float = Field(default=0.002, gt=0, lt=1, description="ADWIN's confidence")
    warm_up_panes: int = Field(default=10, ge=1)
    reference_rows: int = Field(
        default=5000, ge=0, description="labelled rows the reference learner sees before it is compared with"
    )
    bias_panes: int = Field(default=10, ge=1, description="newest panes whose mean of label minus score is compared")
    bias_z: float = Field(default=5.0, gt=0)
    bias_minimum: float = Field(default=0.05, ge=0)
    population_pane: Duration = 24 * _HOUR
    population_panes: int = Field(
        default=3, ge=1, le=1000, description="panes in a row that must differ; a drift is told once while it lasts"
    )
    population_reference_rows: int = Field(default=5000, ge=100)
    population_effect: float = Field(
        default=0.25, gt=0, description="population stability index that counts as an effect"
    )
    population_alpha: float = Field(default=1e-6, gt=0, lt=1)
    parameters: dict[str, float] = Field(default_factory=dict)


class MonitorSpec(Contract):
    """What is watched. Segments are request fields; metrics are kept overall and per value of each."""

    segments: list[FieldName] = Field(default_factory=list, max_length=16)
    drift: DriftSpec = DriftSpec()
    quality_log_loss: float | None = Field(
        default=None, description="a rolling log-loss above this asks for a training"
    )


class RolloutSpec(Contract):
    """How a release reaches traffic. The baseline shadow keeps scoring with the first model, for comparison.

    With `canary` a new version is first the challenger of the champion, for the first of `steps` of the keys.
    """

    strategy: Literal["direct", "canary"] = "direct"
    baseline_shadow: bool = False
    steps: list[Share] = Field(
        default_factory=list, max_length=20, exclude_if=_is_empty, description="rising shares of the keys"
    )
    sticky: FieldName | None = Field(
        default=None, exclude_if=_is_empty, description="request field whose value has one arm; none: the join key"
    )
    thresholds: dict[Name, Probability] = Field(
        default_factory=dict, max_length=32, exclude_if=_is_empty, description="an answer names those its score reaches"
    )
    deadline: Duration | None = Field(
        default=None,
        ge=1_000,
        le=10_000_000,
        exclude_if=_is_empty,
        description="of a challenger for a batch; then the champion answers; none: 20ms",
    )

    @model_validator(mode="after")
    def _steps_rise(self) -> Self:
        if (self.strategy == "canary") != bool(self.steps):
            raise ValueError("rollout.steps: the shares of a canary, and of nothing else")
        if sorted(set(self.steps)) != self.steps:
            raise ValueError("rollout.steps: each share must be above the one before it")
        return self


class PolicySpec(Contract):
    """When the loop acts by itself. `training_duration` is a run's length in event time, so that replays agree."""

    mode: Literal["observe", "suggest", "auto"] = "auto"
    retrain_on: list[Literal["drift", "quality", "volume", "schedule"]] = Field(
        default=["drift", "volume"],
        description="quality: a log-loss above `monitor.quality_log_loss`, or a source of labels or features begins to "
        "break a bound that it declares (the training leaves quarantined rows out)",
    )
    drift_kinds: list[Literal["input", "prediction", "concept", "calibration"]] = Field(
        default=["concept", "calibration"]
    )
    volume: int = Field(default=25_000, ge=1, description="new labels since the last request that ask for a training")
    schedule: Duration | None = None
    cool_down: Duration = Field(
        default=3 * _DAY, description="event time after a request in which further causes are coalesced"
    )
    training_duration: Duration | None = None
    budget: int = Field(default=1000, ge=0, description="runs per `budget_period`; more are refused")
    budget_period: Duration = 30 * _DAY
