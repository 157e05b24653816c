"""The record of a prediction and its answer, one made from the other: a repeated request gets the same answer."""

from collections import OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Literal, NamedTuple, Protocol

import msgspec

from tidemill_contracts.base import format_time
from tidemill_contracts.events import Fallback

REMEMBERED = 20_000
"""Newest answers kept for requests that are sent again with the same id."""


ArmName = Literal["champion", "challenger"]


time_text = lru_cache(maxsize=1024)(format_time)
"""Many answers have the time of one watermark or one tick; writing it costs as much as looking its vector up."""


class HasRevision(Protocol):
    """What an answer says of the row that it read of a view."""

    @property
    def revision(self) -> int: ...

    @property
    def at_us(self) -> int | None: ...


class _Read(msgspec.Struct):
    revision: int
    at_us: int | None = None


class Part(msgspec.Struct, gc=False):
    """A member of a mix: its share of the answer and its own score; null: it had none and took no part."""

    model: str
    version: int
    weight: float
    score: float | None


class Record(msgspec.Struct, gc=False, omit_defaults=True):
    """`tidemill_contracts.events.Prediction`, field by field; the vector is JSON already.

    What has a default here is only written for releases of more than one model.
    """

    prediction_id: str
    pipeline: str
    key: str
    at_us: int
    epoch: int
    model: str
    version: int
    score: float
    members: dict[str, float]
    shadows: dict[str, float]
    vector: msgspec.Raw
    features: str
    revisions: dict[str, msgspec.Raw]
    request: Mapping[str, Any]
    defaulted: list[str]
    degraded: bool
    watermark_us: int | None
    trace_id: str | None
    sequence: int = 0
    mix: list[Part] = []
    arm: ArmName = "champion"
    share: float = 1.0
    fallback: Fallback | None = None
    above: list[str] = []
    inline: Mapping[str, float | None] = {}
    mark: str | None = None


class _Known(msgspec.Struct):
    """The part of a logged prediction that its answer is made of."""

    prediction_id: str
    epoch: int
    model: str
    version: int
    score: float
    revisions: dict[str, _Read]
    request: dict[str, Any]
    defaulted: list[str] = []
    degraded: bool = False
    trace_id: str | None = None
    mix: list[Part] = []
    arm: ArmName = "champion"
    share: float = 1.0
    fallback: Fallback | None = None
    above: list[str] = []
    inline: dict[str, float | None] = {}
    mark: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")] | None = None


class Answer(msgspec.Struct, gc=False, omit_defaults=True):
    """What the client gets for one instance; what has a default is left out where it is so."""

    prediction_id: str
    score: float
    epoch: int
    version: int
    model: str
    revisions: dict[str, int]
    features_at: str | None
    defaulted: list[str]
    degraded: bool
    trace_id: str | None
    members: list[Part] = []
    arm: ArmName = "champion"
    share: float = 1.0
    fallback: Fallback | None = None
    above: list[str] = []
    inline: list[str] = []


class Remembered(NamedTuple):
    """An answer as it was sent, and a mark of the inputs it was for.

    `origin`: of a request over Kafka, where it stood there. Whoever reads that very record again knows that no answer
    to it is in Kafka, since its offset would be there with it.
    """

    inputs: bytes
    answer: bytes
    origin: bytes = b""


def answer_of(record: "Record | _Known", reads: Mapping[str, HasRevision]) -> bytes:
    """The encoded answer to a record; `features_at` is the time of the newest vector that was read."""
    revisions, newest = {}, None
    for view, read in reads.items():
        revisions[view] = read.revision
        if read.at_us is not None and (newest is None or read.at_us > newest):
            newest = read.at_us
    answer = Answer(
        record.prediction_id, record.score, record.epoch, record.version, record.model, revisions,
        None if newest is None else time_text(newest), record.defaulted, record.degraded, record.trace_id, record.mix,
        record.arm, record.share, record.fallback, record.above, list(record.inline),
    )  # fmt: skip
    return _ENCODER.encode(answer)


def recall(value: bytes, origin: bytes = b"") -> tuple[str, Remembered]:
    """The id and the answer of a logged prediction; raises msgspec.MsgspecError for bytes that are none."""
    known = _KNOWN.decode(value)
    mark = mark_of(known.request, known.inline) if known.mark is None else bytes.fromhex(known.mark)
    return known.prediction_id, Remembered(mark, answer_of(known, known.revisions), origin)


def mark_of(inputs: Mapping[str, Any], inline: Mapping[str, float | None] | None = None) -> bytes:
    """A mark by which a request that is sent again is told from another one under the same id."""
    return blake2b(_SORTED.encode([inputs, inline] if inline else inputs), digest_size=8).digest()


def encode_record(record: Record) -> bytes:
    """The JSON body for the log."""
    return _ENCODER.encode(record)


class Recent:
    """The newest answers by prediction id, bounded."""

    def __init__(self, size: int = REMEMBERED) -> None:
        self._size = size
        self._known: OrderedDict[str, Remembered] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, prediction_id: str) -> Remembered | None:
        """What was answered under this id, if it was not long ago."""
        return self._known.get(prediction_id)

    def put(self, prediction_id: str, remembered: Remembered) -> None:
        """Remember an answer that is in the log; the first one under an id stays, unless it never left for Kafka."""
        known = self._known.get(prediction_id)
        if known is not None and known.origin and known.origin == remembered.origin:
            self._known[prediction_id] = remembered
        if known is None:
            self._known[prediction_id] = remembered
            if len(self._known) > self._size:
                self._known.popitem(last=False)


_ENCODER = msgspec.json.Encoder()
_SORTED = msgspec.json.Encoder(order="sorted")
_KNOWN = msgspec.json.Decoder(_Known)
