"""Turns records of the merge's inputs into rows and watermarks. A bad record is refused with the reason."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidemill_contracts import Envelope
from tidemill_contracts.events import Inference, Prediction, Timer
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.expressions import compile_expression, field_types
from tidemill_monitoring.domain.join import Label
from tidemill_monitoring.domain.merge import Input, Row


class BadRecordError(ValueError):
    """A record of an input topic that can never be read."""


class Record(Protocol):
    """A record as the log hands it over; `timestamp` in milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Read:
    """What a record says: a row, a watermark, or both. Neither: an event of the label source that holds no label."""

    row: Row | None = None
    watermark_us: int | None = None


class LabelReader:
    """Reads events of the label source: the label expression over the event's fields."""

    def __init__(self, spec: PipelineSpec) -> None:
        source = spec.sources[spec.label.source]
        self._lateness = source.allowed_lateness
        self._join = spec.label.join
        self._expression = compile_expression(spec.label.expression, field_types(source.fields))

    def read(self, envelope: Envelope, place: Input, offset: int) -> Read:
        """A label row with the watermark that it implies."""
        if envelope.type == Timer.TYPE:
            return Read(watermark_us=Timer.read(envelope.data).time_us)
        try:
            data = json.loads(envelope.data)
            key = str(data[self._join])
            value = self._expression.row(data)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            msg = f"not an event of the label source: {error!r}"
            raise BadRecordError(msg) from None
        implied = envelope.time_us - self._lateness
        if value is None or math.isnan(value):
            return Read(watermark_us=implied)
        label = Label(
            key, envelope.time_us, value, envelope.id, place[1], envelope.seq if envelope.seq is not None else -1
        )
        return Read(Row(envelope.time_us, envelope.id, place, offset, label), implied)


def read_prediction(envelope: Envelope, place: Input, offset: int) -> Read:
    """A prediction row, or a watermark that serving wrote."""
    if envelope.type == Timer.TYPE:
        return Read(watermark_us=Timer.read(envelope.data).time_us)
    if envelope.type == Inference.TYPE:
        return Read()  # somebody asked the model itself: no entity, so no label will come
    if envelope.type != Prediction.TYPE:
        msg = f"{envelope.type} does not belong on this topic"
        raise BadRecordError(msg)
    prediction = Prediction.read(envelope.data)
    return Read(Row(prediction.at_us, str(prediction.prediction_id), place, offset, prediction))
