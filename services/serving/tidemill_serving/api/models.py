"""Bodies of the HTTP interface, for its description and for the answers that are not on the hot path."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Scalar = str | int | float | bool | None


class Instance(BaseModel):
    """One thing to be predicted."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = Field(default=None, min_length=1, max_length=256, description="the same id again: the same answer")
    time: str | None = Field(default=None, description="RFC 3339; the event time, where no field declares it; else now")
    inputs: dict[str, Scalar] = Field(description="the request fields that the pipeline file declares")
    features: dict[str, float | None] | None = Field(
        default=None, description="features of views, `view.feature`, in place of what is known of the entity"
    )


class Instances(BaseModel):
    """Many at once."""

    model_config = ConfigDict(extra="forbid")

    instances: list[Instance] = Field(min_length=1, max_length=1000)


class Part(BaseModel):
    """A member's part in a mix; without a score it took no part."""

    model: str
    version: int
    weight: float
    score: float | None


class Explanation(BaseModel):
    """Why a member said what it said, in log-odds: base and contributions come to raw, whose sigmoid it said."""

    model: str
    version: int
    weight: float
    base: float | None = Field(default=None, description="the mean raw score over the training rows")
    raw: float | None = None
    contributions: dict[str, float] = Field(default={}, description="of each feature")
    error: str | None = Field(default=None, description="why this model cannot be explained")


class Explain(BaseModel):
    """The query of a prediction."""

    model_config = ConfigDict(extra="forbid")

    explain: bool = Field(default=False, description="also tell what each feature adds to the score")


class Prediction(BaseModel):
    """One answer, and what it rests on."""

    prediction_id: str
    score: float = Field(ge=0, le=1)
    epoch: int
    version: int
    model: str
    revisions: dict[str, int] = Field(description="per view the revision that was read; 0: the entity was unknown")
    features_at: str | None = Field(description="time of the newest vector that was read")
    defaulted: list[str] = Field(description="views that knew nothing of their entity")
    degraded: bool = Field(description="Kafka was away, or the release before the champion had to answer")
    trace_id: str | None
    members: list[Part] | None = Field(default=None, description="of several that are mixed; absent: `model` alone")
    arm: Literal["champion", "challenger"] = Field(default="champion", description="whose the key is; absent: champion")
    share: float = Field(default=1.0, description="of the keys that are the arm's; absent: all")
    fallback: Literal["error", "late", "invalid"] | None = Field(
        default=None, description="why another answered than whose the key is, or not all of the members"
    )
    above: list[str] = Field(default=[], description="names of the release's thresholds that the score reaches")
    inline: list[str] = Field(default=[], description="features that the request put in; absent: none")
    explanation: list[Explanation] | None = Field(
        default=None, description="where it was asked for, of each member; null for an answer that is repeated"
    )


class Predictions(BaseModel):
    """Answers in the order of the instances."""

    predictions: list[Prediction]


class SwapStatus(BaseModel):
    """When a release came to answer here."""

    epoch: int
    at_watermark_us: int | None


class ArmMember(BaseModel):
    """A model that answers for an arm."""

    version: int
    model: str
    weight: float


class ArmStatus(BaseModel):
    """A side of the release that answers; `answers` are those that its leading version gave here since the start."""

    arm: str
    share: float
    members: list[ArmMember]
    answers: int


class ShadowStatus(BaseModel):
    """A shadow off the path of answers; `outcomes` counts rows since the start: scored, dropped, or why not."""

    name: str
    version: int
    model: str
    outcomes: dict[str, int]


class PipelineStatus(BaseModel):
    """Where a pipeline is. Counts are of records on disk and survive restarts: answered = in the spool ever.

    But for `unlogged`, which is part of `answered`: answers since the process began that the policy at the log's limit
    left out of it.
    """

    ready: bool
    watermark_us: int | None
    epoch: int | None
    version: int | None
    staged: list[int]
    refused: dict[int, str]
    answered: int
    spooled: int
    unlogged: int = 0
    shipped: int
    progress_us: int | None
    swaps: list[SwapStatus]
    entities: dict[str, int]
    arms: list[ArmStatus]
    shadows: list[ShadowStatus]
    fallbacks: dict[str, int] = Field(description="answers by another than whose key it was, by arm and reason")


class WorkerStatus(BaseModel):
    """One of several workers; `up`: it answered."""

    worker: int
    up: bool
    pid: int | None = None


class Status(BaseModel):
    """This process, or the workers that share its port as one."""

    replica: str
    degraded: bool
    spool: dict[str, int]
    pipelines: dict[str, PipelineStatus]
    workers: list[WorkerStatus] = []


class ServerMetadata(BaseModel):
    """Open Inference Protocol: the server."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Open Inference Protocol: alive."""

    live: bool


class Ready(BaseModel):
    """Open Inference Protocol: ready."""

    ready: bool


class ModelReady(BaseModel):
    """Open Inference Protocol: a model is ready."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """Open Inference Protocol: an input or output; -1 is a free dimension."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """Open Inference Protocol: a pipeline's champion."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Tensor(BaseModel):
    """Open Inference Protocol: a tensor with its values in row-major order, nested or flat."""

    model_config = ConfigDict(extra="forbid")

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: list[Any]


class RequestedOutput(BaseModel):
    """Open Inference Protocol: an output to be returned."""

    model_config = ConfigDict(extra="forbid")

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(BaseModel):
    """Open Inference Protocol: tensors for a model."""

    model_config = ConfigDict(extra="forbid")

    id: str | None = None
    model_name: str | None = Field(default=None, description="the model of the path, which kserve's client repeats")
    parameters: dict[str, Any] | None = None
    inputs: list[Tensor] = Field(min_length=1)
    outputs: list[RequestedOutput] | None = None


class OutputTensor(BaseModel):
    """Open Inference Protocol: a tensor of answers."""

    name: str
    datatype: str
    shape: list[int]
    data: list[float]


class InferResponse(BaseModel):
    """Open Inference Protocol: answers."""

    model_name: str
    model_version: str
    id: str = Field(description="the request's id, or else the inference id")
    parameters: dict[str, str] = Field(description="inference_id: the id of the answer in the log")
    outputs: list[OutputTensor]
