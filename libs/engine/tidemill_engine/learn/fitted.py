"""What a trainer gives back: a model that scores rows and writes itself as canonical ONNX."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.onnx import Calibration, Forest, LinearModel, forest_to_onnx, linear_to_onnx


class Fitted(Protocol):
    """A fitted binary model, whatever made it."""

    @property
    def trainer(self) -> str:
        """The trainer's name in a pipeline file."""

    def raw_scores(self, features: Float32s) -> Float64s:
        """Raw scores [N] (log-odds before calibration) of float32 rows [N, F]."""

    def to_onnx(
        self, feature_names: Sequence[str], calibration: Calibration | None = None, *, schema_digest: str | None = None
    ) -> bytes:
        """Canonical ONNX bytes; the same fit gives the same bytes."""


@dataclass(frozen=True, slots=True)
class FittedForest:
    """Boosted trees."""

    model: Forest
    trainer: str = "lightgbm"

    def raw_scores(self, features: Float32s) -> Float64s:
        return self.model.raw_scores(features)

    def to_onnx(
        self, feature_names: Sequence[str], calibration: Calibration | None = None, *, schema_digest: str | None = None
    ) -> bytes:
        return forest_to_onnx(self.model, feature_names, calibration, schema_digest=schema_digest)


@dataclass(frozen=True, slots=True)
class FittedLinear:
    """A linear model."""

    model: LinearModel
    trainer: str = "logistic"

    def raw_scores(self, features: Float32s) -> Float64s:
        return self.model.raw_scores(features)

    def to_onnx(
        self, feature_names: Sequence[str], calibration: Calibration | None = None, *, schema_digest: str | None = None
    ) -> bytes:
        return linear_to_onnx(self.model, feature_names, calibration, schema_digest=schema_digest)
