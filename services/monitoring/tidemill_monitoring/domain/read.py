"""Turns records of the merge's inputs into rows and watermarks. A bad record is refused with the reason."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tidemill_contracts import Envelope
from tidemill_contracts.events import Inference, Prediction, QualityBreached, QualityJudged, Shadowed, Timer
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.expressions import compile_expression, field_types
from tidemill_monitoring.domain.join import Label
from tidemill_monitoring.domain.merge import Input, Row
from tidemill_monitoring.domain.rivals import said_of

GONE = frozenset({"silent", "left"})
"""Reasons of a timer that says of a writer that it writes no more."""


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
    """What a record says: a row, a watermark, or both. Neither: an event of the label source that holds no label.

    A watermark with a `writer` is only the word of that one, `is_gone` the word that it has none any more.
    """

    row: Row | None = None
    watermark_us: int | None = None
    lane: Input | None = None
    """The input whose watermark it is, where that is not the record's partition."""
    writer: str | None = None
    is_gone: bool = False


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


class QualityReader:
    """Reads what is told about the quality of the pipeline's sources, each partition of each source a lane.

    A breach takes its turn two windows after the one that it is about. It is told when the watermark of its partition
    has passed that window, so by then its word has long been there and the merge need not wait for it.
    """

    def __init__(self, spec: PipelineSpec, name: str) -> None:
        wanted = "quality" in spec.policy.retrain_on
        read = {view.source for view in spec.views.values()} | {spec.label.source}
        rules = {source: spec.sources[source].quality for source in sorted(read) if wanted}
        self._delay = {source: 2 * rule.window for source, rule in rules.items() if rule is not None}
        self._name, self._partitions = name, spec.partitions

    def lanes(self) -> dict[Input, Input]:
        """Every lane with the topic's partition that holds it; none when the policy does not ask for quality."""
        return {self._lane(source, p): (self._name, 0) for source in self._delay for p in range(self._partitions)}

    def read(self, envelope: Envelope, _: Input, offset: int) -> Read:
        """A breach as a row, or how far a lane has come; nothing of sources that are not the pipeline's."""
        if envelope.type == QualityBreached.TYPE:
            breach = QualityBreached.read(envelope.data)
            delay, partition = self._delay.get(breach.source), breach.partition
            if delay is not None and partition < self._partitions:
                lane = self._lane(breach.source, partition)
                return Read(Row(breach.window_us[1] + delay, str(breach.quarantine_id), lane, offset, breach))
        if envelope.type == QualityJudged.TYPE:
            judged = QualityJudged.read(envelope.data)
            delay, partition = self._delay.get(judged.source), judged.partition
            if delay is not None and partition < self._partitions:
                return Read(watermark_us=judged.until_us + delay, lane=self._lane(judged.source, partition))
        return Read()

    def _lane(self, source: str, partition: int) -> Input:
        return f"{self._name}/{source}", partition


def read_prediction(envelope: Envelope, place: Input, offset: int) -> Read:
    """A prediction row, what shadows said to one, or a watermark that serving wrote."""
    if envelope.type == Timer.TYPE:
        timer = Timer.read(envelope.data)
        writer = envelope.source if timer.writer is None else timer.writer
        return Read(watermark_us=timer.time_us, writer=writer, is_gone=timer.reason in GONE)
    if envelope.type == Inference.TYPE:
        return Read()  # no entity, so no label will come
    if envelope.type == Shadowed.TYPE:
        said = said_of(Shadowed.read(envelope.data))
        return Read(Row(said.at_us, f"~{said.prediction_id}", place, offset, said))  # behind its prediction
    if envelope.type != Prediction.TYPE:
        msg = f"{envelope.type} does not belong on this topic"
        raise BadRecordError(msg)
    prediction = Prediction.read(envelope.data)
    return Read(Row(prediction.at_us, str(prediction.prediction_id), place, offset, prediction))
