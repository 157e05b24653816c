"""The pipeline file: one YAML document that says what is ingested, computed, predicted and watched."""

from tidemill_contracts.pipeline.applied import AppliedFiles, files_of
from tidemill_contracts.pipeline.fields import (
    BooleanField,
    CategoryField,
    FieldSpec,
    NumberField,
    StringField,
    TimestampField,
)
from tidemill_contracts.pipeline.inference import InferenceSpec, TensorCaptureSpec
from tidemill_contracts.pipeline.load import PipelineError, Problem, load_pipeline, parse_pipeline
from tidemill_contracts.pipeline.model import (
    CaptureSpec,
    ColdStartSpec,
    DriftSpec,
    GateSpec,
    LabelSpec,
    ModelSpec,
    MonitorSpec,
    PolicySpec,
    RequestSpec,
    RolloutSpec,
)
from tidemill_contracts.pipeline.quality import FieldQuality, QualitySpec
from tidemill_contracts.pipeline.spec import PipelineSpec
from tidemill_contracts.pipeline.views import AggregationSpec, EntitySpec, SourceSpec, ViewSpec, WindowSpec

__all__ = [
    "AggregationSpec",
    "AppliedFiles",
    "BooleanField",
    "CaptureSpec",
    "CategoryField",
    "ColdStartSpec",
    "DriftSpec",
    "EntitySpec",
    "FieldQuality",
    "FieldSpec",
    "GateSpec",
    "InferenceSpec",
    "LabelSpec",
    "ModelSpec",
    "MonitorSpec",
    "NumberField",
    "PipelineError",
    "PipelineSpec",
    "PolicySpec",
    "Problem",
    "QualitySpec",
    "RequestSpec",
    "RolloutSpec",
    "SourceSpec",
    "StringField",
    "TensorCaptureSpec",
    "TimestampField",
    "ViewSpec",
    "WindowSpec",
    "files_of",
    "load_pipeline",
    "parse_pipeline",
]  # fmt: skip
