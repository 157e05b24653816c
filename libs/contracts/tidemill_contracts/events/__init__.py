"""Every event Tidemill writes, as a frozen model with its CloudEvents type and its topic."""

from tidemill_contracts.events.control import (
    Cause,
    CauseKind,
    DriftDetected,
    GateCheck,
    GateDecided,
    Member,
    ModelSwapped,
    PipelineApplied,
    QualityBreached,
    QualityJudged,
    QuarantineReleased,
    Released,
    ReleaseReason,
    RunFinished,
    RunProgress,
    TrainingCoalesced,
    TrainingManifest,
    TrainingRequested,
    VersionRegistered,
)
from tidemill_contracts.events.data import (
    DeadLetter,
    FeatureVector,
    Inference,
    Outcome,
    Prediction,
    Timer,
    ViewRevision,
    Watermark,
)
from tidemill_contracts.events.meta import EVENTS, Event, decode, encode

__all__ = [
    "EVENTS", "Cause", "CauseKind", "DeadLetter", "DriftDetected", "Event", "FeatureVector", "GateCheck", "GateDecided",
    "Inference", "Member", "ModelSwapped", "Outcome", "PipelineApplied", "Prediction", "QualityBreached",
    "QualityJudged", "QuarantineReleased", "ReleaseReason", "Released", "RunFinished", "RunProgress", "Timer",
    "TrainingCoalesced", "TrainingManifest", "TrainingRequested", "VersionRegistered", "ViewRevision", "Watermark",
    "decode", "encode",
]  # fmt: skip
