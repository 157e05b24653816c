"""What the services answer, as frozen models. Fields that a newer service adds are left out."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from tidemill_contracts.events import DriftDetected, GateDecided, Released


class Result(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Place(Result):
    """Where a record stands on a topic."""

    partition: int
    offset: int
    topic: str = ""


class Accepted(Place):
    """The broker has the event of this id."""

    id: str


class EventFate(Result):
    """What became of an event: `outcome` is applied, late, future or dead_lettered; `seq` its number if applied."""

    id: str
    outcome: str
    topic: str
    partition: int
    seq: int | None
    time: str
    raw: Place
    conflicts: int = 0


class Applied(Result):
    """An accepted pipeline definition."""

    pipeline: str
    revision: int
    digest: str


class Pipeline(Result):
    """A pipeline as it stands; `spec` is its file as JSON, `epoch` the newest release (0: none).

    `kept` are earlier files that releases on hand were made for, each with its digest.
    """

    pipeline: str
    revision: int
    digest: str
    frozen: bool
    epoch: int
    spec: dict[str, Any]
    kept: list[dict[str, Any]] = []


class Part(Result):
    """A member's part in a mix; without a score it took no part."""

    model: str
    version: int
    weight: float
    score: float | None


class Explanation(Result):
    """What each feature added to a member's score, in log-odds: `base` and all of them come to `raw`."""

    model: str
    version: int
    weight: float
    base: float | None = None
    raw: float | None = None
    contributions: dict[str, float] = {}
    error: str | None = None


class Prediction(Result):
    """An answer and what it rests on; `revisions` is per view the revision that was read, 0 for an unknown entity.

    `members` are those of a mix, `arm` is whose the key is, with its share of the keys; `fallback` says why another
    answered, and `above` names the release's thresholds that the score reaches.
    """

    prediction_id: str
    score: float
    epoch: int
    version: int
    model: str
    revisions: dict[str, int]
    features_at: str | None = None
    defaulted: list[str] = []
    degraded: bool = False
    trace_id: str | None = None
    members: list[Part] = []
    arm: str = "champion"
    share: float = 1.0
    fallback: str | None = None
    above: list[str] = []
    inline: list[str] = []
    explanation: list[Explanation] | None = None


class Refusal(Result):
    """A request over Kafka that went to the dead letters: its id, or its place where it had none, and why."""

    id: str
    error: str


class BulkOutcome(Result):
    """What became of requests over Kafka: `known` were answered before under their ids; the first refusals by name."""

    pipeline: str
    sent: int
    answered: int
    refused: int
    known: int
    refusals: list[Refusal] = []
    seconds: float


class Version(Result):
    """A registered model; `at_us` is the event time of its training."""

    version: int
    model: str
    manifest: str
    run_id: str
    at_us: int
    reference: str | None = None


class Run(Result):
    """A training run."""

    request_id: str
    pipeline: str
    status: str
    attempt: int
    cause: dict[str, Any]
    at_us: int
    result: dict[str, Any] | None = None
    seconds: float | None = None
    progress: dict[str, Any] | None = None


class TrainingOutcome(Result):
    """What became of a training request: released (under `epoch`), or suggested, rejected, failed and the like."""

    request_id: str
    status: str
    epoch: int | None = None
    version: int | None = None
    detail: str = ""


class Metric(Result):
    """Exact sums over the labelled answers of one pane (`pane_us`) and segment, of the shadows on the same rows too."""

    segment: str
    pane_us: int
    sums: dict[str, int]
    shadows: dict[str, dict[str, int]]


class Difference(Result):
    """Log-loss of a shadow less that of the answers on the same rows; one-sided bounds at `error`, from two days on."""

    mean: float
    standard_error: float | None
    lower: float | None
    upper: float | None
    error: float
    days: int


class ShadowFigures(Result):
    """A shadow beside the answers of the version `against`, on the labelled rows that both have a score for.

    `failed` rows have none of the shadow; `verdict` is what the pipeline's gate asks of such a difference.
    """

    name: str
    model: str
    against: int
    rows: int
    failed: int
    log_loss: float | None
    answers_log_loss: float | None
    brier: float | None
    answers_brier: float | None
    difference: Difference | None
    verdict: str
    reason: str


class Drift(Result):
    """An alarm with its evidence."""

    event_id: str
    drift: DriftDetected


class Audit(Result):
    """Whether the chain of decisions holds; `broken_at` is the first link that does not fit."""

    ok: bool
    links: int
    head: str
    broken_at: int | None = None
    reason: str = ""


class Letter(Result):
    """A dead letter: where it lies, where it was, why it could not be processed."""

    topic: str
    partition: int
    offset: int
    origin_topic: str
    origin_partition: int | None
    origin_offset: int | None
    reason: str
    error: str
    replays: int
    at: str | None
    bytes: int


class OpenedLetter(Letter):
    """A dead letter with its bytes."""

    headers: dict[str, str]
    key_base64: str | None
    value_base64: str | None


class Replayed(Result):
    """Dead letters that were put back, and how many were left out because they had been before."""

    replayed: list[dict[str, Any]]
    skipped: int


__all__ = [
    "Accepted", "Applied", "Audit", "BulkOutcome", "Difference", "Drift", "DriftDetected", "EventFate", "GateDecided",
    "Letter", "Metric", "OpenedLetter", "Part", "Pipeline", "Place", "Prediction", "Refusal", "Released", "Replayed",
    "Run", "ShadowFigures", "Version",
]  # fmt: skip
