"""Events of the control plane: few, ordered, each the effect of one transaction. None names a physical offset."""

from typing import Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from tidemill_contracts.base import Contract, Digest, Micros
from tidemill_contracts.events.meta import Event
from tidemill_contracts.ids import derived_id
from tidemill_contracts.topics import Family

CauseKind = Literal["drift", "quality", "volume", "schedule", "hand", "cold_start"]
PositionVector = dict[str, dict[str, int]]
"""Topic family and name (`events.flights`) to partition to dense sequence number (exclusive)."""


class KeptFile(Contract):
    """An earlier file of a pipeline, by its digest: a release on hand was made for it."""

    digest: Digest
    spec: dict[str, Any]


class PipelineApplied(Event):
    """A pipeline file was accepted; compacted by pipeline name, so a late service knows all pipelines at once."""

    TYPE: ClassVar[str] = "tidemill.pipeline-applied.v1"
    FAMILY: ClassVar[Family | None] = "pipelines"
    pipeline: str
    revision: int = Field(ge=1)
    digest: Digest
    spec: dict[str, Any] = Field(
        description="the pipeline file as JSON; tidemill_contracts.pipeline.PipelineSpec reads it"
    )
    kept: list[KeptFile] = Field(
        default_factory=list,
        description="earlier files that the release which answers, and the one before it, were made for: "
        "their versions of views are computed on beside this file's",
    )


class DriftDetected(Event):
    """Something left its earlier range, with the evidence."""

    TYPE: ClassVar[str] = "tidemill.drift.v1"
    FAMILY: ClassVar[Family | None] = "drift"
    pipeline: str
    kind: Literal["input", "prediction", "concept", "calibration"]
    subject: str = Field(description="feature name, `score`, `paired_loss` or `label_minus_score`")
    at_us: Micros
    effect: float
    p_value: float | None = None
    before: float | None = None
    after: float | None = None
    detector: str
    outcomes: tuple[int, int] | None = Field(default=None, description="range of outcome numbers, upper end exclusive")
    window_us: tuple[int, int] | None = None
    positions: PositionVector = Field(default_factory=dict)
    epoch: int = 0
    policy: Digest


class Cause(Contract):
    """Why a training was asked for; `event_id` resolves to the event that caused it."""

    kind: CauseKind
    event_id: UUID | None = None
    drift: Literal["input", "prediction", "concept", "calibration"] | None = None
    detail: str = ""


class TrainingRequested(Event):
    """Monitoring, a schedule or a hand asks for a new model, from what was known at `at_us`."""

    TYPE: ClassVar[str] = "tidemill.training-requested.v1"
    FAMILY: ClassVar[Family | None] = "training"
    request_id: UUID
    pipeline: str
    at_us: Micros
    effective_at_us: Micros | None = None
    cause: Cause
    outcomes_to: int = Field(ge=0, description="outcomes numbered below this are known")
    positions: PositionVector = Field(default_factory=dict)
    spec: Digest
    policy: Digest


class TrainingCoalesced(Event):
    """A cause that led to no run of its own, so that none is lost: joined to a request, or refused."""

    TYPE: ClassVar[str] = "tidemill.training-coalesced.v1"
    FAMILY: ClassVar[Family | None] = "training"
    cause_id: UUID
    pipeline: str
    at_us: Micros
    cause: Cause
    outcome: Literal["coalesced", "refused"]
    request_id: UUID | None = None
    reason: str


class TrainingManifest(Contract):
    """Everything that decides the bytes of a model. The same manifest gives the same SHA-256."""

    pipeline: str
    spec: Digest
    policy: Digest
    trainer: str
    parameters: dict[str, Any]
    window: str
    seed: int
    outcomes: tuple[int, int] | None = None
    events: PositionVector = Field(default_factory=dict, description="archive ranges read by a cold start")
    excluded: dict[str, dict[str, list[tuple[int, int]]]] = Field(
        default_factory=dict, exclude_if=lambda excluded: not excluded,
        description="quarantined numbers by source and partition, both ends inclusive, whose rows were left out",
    )  # fmt: skip
    as_of_us: Micros
    views: dict[str, str]
    features: list[str]
    rows: dict[str, int] = Field(description="rows by part: train, calibration, gate")
    data: Digest = Field(description="digest of the training rows' bytes")
    code: Digest
    lock: Digest


class RunFinished(Event):
    """A training run ended. A failed run leaves nothing half-registered: it has no model."""

    TYPE: ClassVar[str] = "tidemill.run-finished.v1"
    FAMILY: ClassVar[Family | None] = "runs"
    run_id: UUID
    request_id: UUID
    pipeline: str
    status: Literal["succeeded", "failed", "refused"]
    at_us: Micros
    effective_at_us: Micros | None = None
    cause: Cause
    model: Digest | None = None
    manifest: Digest | None = None
    evaluation: Digest | None = Field(
        default=None, description="Parquet of the gate rows: time, label, candidate, champion, segments"
    )
    reference: Digest | None = Field(
        default=None, exclude_if=lambda digest: digest is None, description="a DriftReference of the model"
    )
    champion_epoch: int = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    error: str | None = None


class RunProgress(Event):
    """A training run has begun a step: a notice for those who watch, nothing is decided by it."""

    TYPE: ClassVar[str] = "tidemill.run-progress.v1"
    FAMILY: ClassVar[Family | None] = "runs"
    run_id: UUID
    request_id: UUID
    pipeline: str
    attempt: int = Field(ge=1, description="rises when the run is begun again after a crash")
    step: str
    share: float = Field(ge=0, le=1, description="of the run's work that lies behind it")


class VersionRegistered(Event):
    """A model got its number; versions are content-addressed and never change."""

    TYPE: ClassVar[str] = "tidemill.version-registered.v1"
    FAMILY: ClassVar[Family | None] = "versions"
    pipeline: str
    version: int = Field(ge=1)
    model: Digest
    manifest: Digest
    reference: Digest | None = Field(
        default=None, exclude_if=lambda digest: digest is None, description="a DriftReference of the model"
    )
    run_id: UUID
    at_us: Micros


class GateCheck(Contract):
    """One question of the gate and its answer."""

    name: str
    verdict: Literal["pass", "fail", "inconclusive"]
    value: float | None = None
    bound: float | None = None
    reason: str = ""
    segment: str | None = None


class GateDecided(Event):
    """The gate's verdict on a version against the champion of `champion_epoch`."""

    TYPE: ClassVar[str] = "tidemill.gate-decided.v1"
    FAMILY: ClassVar[Family | None] = "versions"
    pipeline: str
    version: int
    verdict: Literal["pass", "fail", "inconclusive"]
    checks: list[GateCheck]
    champion_epoch: int
    run_id: UUID
    at_us: Micros
    policy: Digest


class QualityBreached(Event):
    """A declared bound on a stream's quality did not hold in a window of one partition; its rows are quarantined.

    `numbers` are the first and the last dense number of the window's events, `ranges` exactly those events (both ends
    of each inclusive): where events come out of order, numbers of other windows lie between. Empty for `silence`.
    """

    TYPE: ClassVar[str] = "tidemill.quality.v1"
    FAMILY: ClassVar[Family | None] = "quality"
    source: str
    partition: int = 0
    field: str = Field(description="empty for rules about the whole stream: rows, silence")
    rule: str = Field(description="nulls, range, values, rows or silence")
    value: float = Field(description="measured: a share, rows, or seconds of silence")
    bound: float
    rows: int = Field(default=0, ge=0, description="events of the window in this partition")
    window_us: tuple[int, int]
    numbers: tuple[int, int] | None = None
    ranges: list[tuple[int, int]] = Field(default_factory=list)
    positions: PositionVector = Field(default_factory=dict)

    @property
    def quarantine_id(self) -> UUID:
        """The id of the event and of what it quarantines: it follows from the cause."""
        return derived_id("quality", self.source, self.partition, self.window_us[0], self.field, self.rule)


class QualityJudged(Event):
    """Every window of one partition that ended by `until_us` has been judged: whatever is told later ended later.

    It stands behind the breaches of those windows, so a reader of the topic knows when it has them all.
    """

    TYPE: ClassVar[str] = "tidemill.quality-judged.v1"
    FAMILY: ClassVar[Family | None] = "quality"
    source: str
    partition: int = 0
    until_us: Micros


class QuarantineReleased(Event):
    """A hand has let a quarantined window back into training; trainings asked for afterwards use its rows."""

    TYPE: ClassVar[str] = "tidemill.quarantine-released.v1"
    FAMILY: ClassVar[Family | None] = "quality"
    quarantine_id: UUID
    source: str
    partition: int
    detail: str = ""
