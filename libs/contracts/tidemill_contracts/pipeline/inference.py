"""What the log holds of requests to the Open Inference Protocol, whose inputs are tensors and not fields."""

from collections.abc import Iterable
from typing import Self

from pydantic import Field, model_validator

from tidemill_contracts.base import Contract
from tidemill_contracts.pipeline.model import Share

MODEL_INPUTS = ("features",)
"""Of every pipeline's model."""


class TensorCaptureSpec(Contract):
    """Inputs whose values are in the records of a share of the requests only, chosen by the request's id."""

    inputs: list[str] = Field(min_length=1, max_length=16)
    share: Share


class InferenceSpec(Contract):
    """Without it records hold all values. With it they name each input, its datatype and shape, and what they hold."""

    redact: list[str] = Field(
        default_factory=list, max_length=16, description="inputs whose values are never logged, not even on disk"
    )
    capture: TensorCaptureSpec | None = None
    most_values: int | None = Field(
        default=None, ge=0, description="of an input in the record of a request; rows above it are cut, and it says so"
    )

    @model_validator(mode="after")
    def _are_inputs(self) -> Self:
        sampled = [] if self.capture is None else self.capture.inputs
        _check("redact", self.redact)
        _check("capture", sampled)
        for name in sampled:
            if name in self.redact:
                raise ValueError(f"capture: {name} is redacted")
        return self


def _check(rule: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in MODEL_INPUTS:
            raise ValueError(f"{rule}: {name} is no input of the model; its inputs: {', '.join(MODEL_INPUTS)}")
