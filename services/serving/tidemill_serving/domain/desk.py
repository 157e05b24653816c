"""One pipeline's desk: takes checked requests, answers with the active release, drafts what goes to the log."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import ModelSwapped, Prediction, Shadowed, Timer, encode
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import topic
from tidemill_serving.domain.answers import Recent, Record, encode_record
from tidemill_serving.domain.batch import Batch, Moment, Written
from tidemill_serving.domain.capture import Capture, InputCapture
from tidemill_serving.domain.drafts import Drafts, Query, Result
from tidemill_serving.domain.entries import Entry, Kind
from tidemill_serving.domain.frames import Sheaf
from tidemill_serving.domain.heads import ID, TRACE_CONTEXT, front, ordered, timed
from tidemill_serving.domain.loaded import Head, Loaded
from tidemill_serving.domain.plan import places_of
from tidemill_serving.domain.releases import KEPT, SWAPS, Champion, Kept, KeptRelease, Swap
from tidemill_serving.domain.replica import Place, Replica
from tidemill_serving.domain.requests import Reader
from tidemill_serving.domain.traffic import Traffic
from tidemill_serving.domain.weaving import OWN, SHARED, SIZE, Int64s, Pieces, opening, pattern

PartitionsOf = Callable[[Sequence[bytes], int], Int64s]
"""Of each key the one of so many partitions."""


@dataclass(slots=True, eq=False)
class Desk:
    """Everything about one pipeline. `floor_us` is the progress declared in its log: no record may lie below it.

    `files` are the pipeline's earlier files by digest, for releases that were made for one of them.
    """

    spec: PipelineSpec
    prefix: str
    source: str
    partitions_of: PartitionsOf
    files: Mapping[str, PipelineSpec] = field(default_factory=dict)
    champion: Champion[Loaded] = field(default_factory=Champion)
    recent: Recent = field(default_factory=Recent)
    floor_us: int | None = None
    swaps: list[Swap] = field(default_factory=list)
    history: list[KeptRelease] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    is_ready: bool = False
    traffic: Traffic = field(default_factory=Traffic)
    reader: Reader = field(init=False)
    topic: str = field(init=False)
    places: tuple[Place, ...] = field(init=False)
    capture: Capture | None = field(init=False)
    inputs: InputCapture | None = field(init=False)
    _front: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.reconfigure(self.spec)
        self.topic = topic("predictions", self.spec.name, prefix=self.prefix)
        self._front = front(Prediction.TYPE, self.source)

    @property
    def name(self) -> str:
        return self.spec.name

    def reconfigure(self, spec: PipelineSpec) -> None:
        """Read requests by another revision of the pipeline file; releases keep the one they were made for."""
        self.spec, self.reader, self.places = spec, Reader(spec.request), places_of(spec)
        sampled = spec.request.capture
        self.capture = None if sampled is None else Capture(sampled, self.traffic)
        self.inputs = None if spec.inference is None else InputCapture(spec.inference, self.traffic)

    def kept(self) -> Kept:
        """What a restart must know."""
        return Kept(self.spec, self.history, self.swaps)

    def watermark_us(self, replica: Replica) -> int | None:
        """How far all views have got, of the file that the active release was made for; None while one is unknown.

        Views of a newer file may still be far behind: they are nobody's features until a release reads them.
        """
        active = self.champion.active
        return replica.watermark_us(self.places if active is None else active.plan.places)

    def answer(
        self, replica: Replica, queries: Sequence[Query], *, now_us: int, degraded: bool, traced: bool = False
    ) -> Drafts:
        """Score the queries as one batch per release; nothing leaves this function before the caller has spooled it."""
        moment = Moment(now_us, self.watermark_us(replica), self.floor_us, degraded=degraded)
        return Batch(self, replica, moment, traced=traced).run(queries)

    def timers(self, time_us: int, *, source: str | None = None, reason: str = "progress") -> list[Entry]:
        """Tell every partition of the log that no prediction of this writer before `time_us` will follow."""
        source = source or self.source
        out = []
        for partition in range(self.spec.partitions):
            body = Timer(source=self.spec.name, time_us=time_us, reason=reason)
            kind = "timer" if reason == "progress" else reason
            identity = str(derived_id(kind, source, self.spec.name, partition, time_us))
            envelope = encode(body, id=identity, source=source, time_us=time_us)
            out.append(self._entry("timer", partition, None, envelope))
        return out

    def swapped(self, loaded: Loaded, watermark_us: int | None, *, at_us: int) -> Entry:
        """Remember that a release answers from now on, and the report of it."""
        self.swaps[:] = [*self.swaps[1 - SWAPS :], Swap(loaded.released.epoch, watermark_us)]
        self.history[:] = [KeptRelease(loaded.released, loaded.spec), *self.history[: KEPT - 1]]
        body = ModelSwapped(
            pipeline=self.spec.name, epoch=loaded.released.epoch, replica=self.source, watermark_us=watermark_us,
            loaded_ms=loaded.loaded_ms,
        )  # fmt: skip
        identity = str(derived_id("swap", self.source, self.spec.name, *loaded.order))
        time_us = at_us if watermark_us is None else watermark_us
        cause = loaded.cause
        envelope = encode(
            body, id=identity, source=self.source, time_us=time_us, subject=self.spec.name, causation=cause.event_id,
            correlation=cause.correlation or cause.event_id, traceparent=cause.traceparent,
        )  # fmt: skip
        name = topic("swaps", prefix=self.prefix)
        key = self.spec.name.encode()
        return Entry("swap", self.spec.name, name, 0, key, envelope.data, envelope.headers(), time_us)

    def body(self, record: Record) -> bytes:
        """A prediction as it is logged."""
        return encode_record(record if self.capture is None else self.capture.apply(record))

    def predictions(self, written: Sequence[Written]) -> list[Sheaf]:
        """The log records of answers, each in the partition of its join key; their headers are an `Envelope`'s."""
        bulk = [one for one in written if one.order is not None]
        if not bulk:
            return [self._sheaf("prediction", written)]
        rest = [one for one in written if one.order is None]
        return [self._sheaf("bulk", bulk), *([self._sheaf("prediction", rest)] if rest else [])]

    def _sheaf(self, kind: Kind, written: Sequence[Written]) -> Sheaf:
        ids, traces, keys, bodies, times, orders = zip(*written, strict=True)
        name, numbers = self.spec.name, np.empty((len(written), 2), np.int64)
        numbers[:, 0], numbers[:, 1] = self.partitions_of(keys, self.spec.partitions), times
        columns, head, shared = [ids, traces, keys, bodies, list(map(timed, times))], _HEAD, self._front
        if kind == "bulk":
            columns, head, shared = (
                [*columns, list(map(ordered, orders))],
                _BULK_HEAD,
                front(Prediction.TYPE, self.source, 2),
            )
        pieces = Pieces([opening(kind, name, self.topic), shared, ID, TRACE_CONTEXT], columns)
        return Sheaf(kind, name, pieces.frames(_BODY, head, numbers, _KEYS), len(written))

    def shadowed(self, head: Head, body: Shadowed) -> Entry:
        """The log record of what shadows said, beside the prediction's."""
        key = head.key.encode()
        identity = str(derived_id("shadowed", head.prediction_id))
        envelope = encode(
            body, id=identity, source=self.source, time_us=head.at_us, causation=head.prediction_id,
            traceparent=head.traceparent,
        )  # fmt: skip
        return self._entry("shadow", int(self.partitions_of([key], self.spec.partitions)[0]), key, envelope)

    def _entry(self, kind: Any, partition: int, key: bytes | None, envelope: Envelope) -> Entry:  # noqa: ANN401 - Kind
        headers = envelope.headers()
        return Entry(kind, self.spec.name, self.topic, partition, key, envelope.data, headers, envelope.time_us)


_IDS, _TRACES, _KEYS, _BODIES, _TIMES, _ORDERS = range(6)
_BODY = pattern((OWN, _BODIES))
_PARTS = (
    (SHARED, 1), (OWN, _TIMES), (SHARED, 2), (SIZE, _IDS), (OWN, _IDS), (SHARED, 3), (SIZE, _TRACES), (OWN, _TRACES)
)  # fmt: skip
_HEAD, _BULK_HEAD = pattern(*_PARTS), pattern(*_PARTS, (OWN, _ORDERS))

__all__ = ["Desk", "Drafts", "Loaded", "PartitionsOf", "Query", "Result", "Swap"]
