"""Every event Tidemill writes, as a frozen model with its CloudEvents type and its topic."""

from tidemill_contracts.events.control import (
    Cause,
    CauseKind,
    DriftDetected,
    GateCheck,
    GateDecided,
    KeptFile,
    PipelineApplied,
    QualityBreached,
    QualityJudged,
    QuarantineReleased,
    RunFinished,
    RunProgress,
    TrainingCoalesced,
    TrainingManifest,
    TrainingRequested,
    VersionRegistered,
)
from tidemill_contracts.events.data import (
    DeadLetter,
    Fallback,
    FeatureVector,
    Inference,
    Outcome,
    Prediction,
    PredictionRequested,
    RequestedInstance,
    Shadowed,
    Timer,
    ViewRevision,
    Watermark,
)
from tidemill_contracts.events.meta import EVENTS, Event, decode, encode
from tidemill_contracts.events.models import LoggedTensor, ModelAnswered, ModelImported, ModelSwitched
from tidemill_contracts.events.reference import REFERENCE_BYTES, DriftReference, ReferenceColumn
from tidemill_contracts.events.releases import Challenger, Member, ModelSwapped, Released, ReleaseReason

__all__ = [
    "EVENTS", "REFERENCE_BYTES", "Cause", "CauseKind", "Challenger", "DeadLetter", "DriftDetected",
    "DriftReference", "Event", "Fallback", "FeatureVector", "GateCheck", "GateDecided", "Inference", "KeptFile",
    "LoggedTensor", "Member", "ModelAnswered", "ModelImported", "ModelSwapped", "ModelSwitched", "Outcome",
    "PipelineApplied", "Prediction", "PredictionRequested", "QualityBreached", "QualityJudged",
    "QuarantineReleased", "ReferenceColumn", "ReleaseReason", "Released", "RequestedInstance", "RunFinished",
    "RunProgress", "Shadowed", "Timer", "TrainingCoalesced", "TrainingManifest", "TrainingRequested",
    "VersionRegistered", "ViewRevision", "Watermark", "decode", "encode",
]  # fmt: skip
