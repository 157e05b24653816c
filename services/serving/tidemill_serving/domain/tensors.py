"""Requests of rows: what the open inference protocol asks, its compiled reader, and a batch's answers and log records.

The compiled reader takes the usual body in one pass; whatever it refuses is read again by the edge's careful one.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Annotated, Literal, NamedTuple

import msgspec
import numpy as np

from tidemill_contracts.base import format_time
from tidemill_contracts.events import Inference
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Drafts, Loaded, Result
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.scoring import score

INPUT, OUTPUT = "features", "probability"
MAXIMUM_ROWS = 10_000
VALUES_PER_RECORD = 20_000
"""At most 25 bytes each: Kafka takes such a record."""


class Rows(NamedTuple):
    """A checked request: the values of `height` rows one after the other, and what it says beside them."""

    height: int
    width: int
    flat: list[float]
    id: str | None = None


class Scored(NamedTuple):
    """What the answer to a query says, for whoever writes it in another form than the protocol's JSON."""

    model: str
    version: str
    id: str
    identity: str
    scores: list[float]


class RowsQuery(NamedTuple):
    """Rows on their way through a batch; `version` is the model's that the request names.

    `render` makes the answer; None: the protocol's JSON.
    """

    rows: Rows
    identity: str
    traceparent: str
    version: str | None = None
    render: Callable[[Scored], bytes] | None = None


class _Tensor(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: Literal["features"]
    shape: tuple[Annotated[int, msgspec.Meta(ge=1, le=MAXIMUM_ROWS)], Annotated[int, msgspec.Meta(ge=1)]]
    datatype: Literal["FP32", "FP64"]
    data: list[float]


class _Wanted(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: Literal["probability"]


class _Request(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    inputs: tuple[_Tensor]
    id: str | None = None
    outputs: list[_Wanted] | None = None


_COLONS = 5
"""Of a request with one tensor: `inputs` and the tensor's four."""
_decode = msgspec.json.Decoder(_Request).decode


def read_rows(raw: bytes) -> Rows | None:
    """The rows of the usual body; None: the careful reader shall look at it."""
    if b"\\" in raw:
        return None
    try:
        found = _decode(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    tensor, colons = found.inputs[0], _COLONS
    count, width = tensor.shape
    if found.id is not None:
        colons += 1 + found.id.count(":")
    if found.outputs is not None:
        colons += 1 + len(found.outputs)
    # Every member costs one colon outside of strings: one more than these, and a key stands twice.
    if raw.count(b":") != colons or len(tensor.data) != count * width:
        return None
    return Rows(count, width, tensor.data, found.id)


class _Record(msgspec.Struct, gc=False):
    """`tidemill_contracts.events.Inference`, field by field."""

    inference_id: str
    request_id: str | None
    pipeline: str
    at_us: int
    epoch: int
    model: str
    version: int
    features: str
    part: int
    parts: int
    rows: list[list[float]]
    scores: list[float]
    degraded: bool
    trace_id: str


def answer_rows(desk: Desk, queries: Sequence[RowsQuery], *, now_us: int, degraded: bool) -> Drafts:
    """Score all rows with one run of each member; raises RefusedError without a release."""
    active = desk.champion.active
    if active is None:
        raise RefusedError(404, "no such model", "no such model, or none of that version")
    drafts = Drafts([], [], [])
    width, version = len(active.plan.features), str(active.leader.version)
    refusals = [
        None if query.rows.width == width and query.version in {None, version} else _refusal(query, width)
        for query in queries
    ]
    good = [query for query, refused in zip(queries, refusals, strict=True) if refused is None]
    scores = iter(_scores(active, good))
    render = _Renderer(desk, active, now_us=now_us, degraded=degraded)
    for query, refused in zip(queries, refusals, strict=True):
        drafts.results.append(refused if refused is not None else _take(drafts.entries, render, query, next(scores)))
    return drafts


def _take(entries: list[Entry], render: "_Renderer", query: RowsQuery, scores: list[float]) -> Result:
    if any(map(math.isnan, scores)):
        return _UNANSWERED
    entries.extend(render.entries(query, scores, len(entries)))
    return render.answer(query, scores)


def _refusal(query: RowsQuery, width: int) -> RefusedError:
    if query.rows.width == width:
        return RefusedError(404, "no such model", "no such model, or none of that version")
    return RefusedError(400, "shape", f"{INPUT} must have the shape [1 to {MAXIMUM_ROWS}, {width}]")


def _scores(active: Loaded, queries: Sequence[RowsQuery]) -> list[list[float]]:
    """Scores of each query's rows."""
    if not queries:
        return []
    count, width = sum(query.rows.height for query in queries), len(active.plan.features)
    flat = chain.from_iterable(query.rows.flat for query in queries)
    with np.errstate(over="ignore"):
        matrix = np.fromiter(flat, np.float32, count * width).reshape(count, width)
    mixed = score(active.members, [], matrix).mixed.tolist()
    out, place = [], 0
    for query in queries:
        out.append(mixed[place : place + query.rows.height])
        place += query.rows.height
    return out


class _Renderer:
    """Answers and log records of one batch: what all of them share is made once."""

    def __init__(self, desk: Desk, active: Loaded, *, now_us: int, degraded: bool) -> None:
        self._desk, self._now_us, self._degraded = desk, now_us, degraded
        self._version, self._digest, self._turn = active.leader.version, active.leader.digest, now_us
        self._name, self._epoch, self._features = desk.spec.name, active.released.epoch, active.plan.digest
        self._head = f'{{"model_name":"{desk.spec.name}","model_version":"{self._version}","id":'
        time = format_time(now_us).encode()
        self._headers: list[tuple[str, bytes]] = [
            ("ce_specversion", b"1.0"), ("ce_type", Inference.TYPE.encode()), ("ce_source", desk.source.encode()),
            ("ce_time", time), ("content-type", b"application/json"),
        ]  # fmt: skip

    def answer(self, query: RowsQuery, scores: list[float]) -> bytes:
        """The body."""
        own = query.rows.id
        if query.render is not None:
            identity = query.identity
            return query.render(Scored(self._name, str(self._version), own or identity, identity, scores))
        identity = f'"{query.identity}"' if own is None else msgspec.json.encode(own).decode()
        data = ",".join(map(repr, scores))
        return (
            f'{self._head}{identity},"parameters":{{"inference_id":"{query.identity}"}},"outputs":[{{"name":"{OUTPUT}",'
            f'"datatype":"FP32","shape":[{len(scores)}],"data":[{data}]}}]}}'
        ).encode()

    def entries(self, query: RowsQuery, scores: list[float], place: int) -> list[Entry]:
        """The log records; rows of no entity go to the partitions in turn."""
        rows = query.rows
        if rows.height == 1:
            return [self._entry(query, _Part(0, 1, [rows.flat], scores), place)]
        table = [rows.flat[first : first + rows.width] for first in range(0, len(rows.flat), rows.width)]
        most = max(1, VALUES_PER_RECORD // rows.width)
        parts = -(-rows.height // most)
        return [
            self._entry(
                query, _Part(part, parts, table[part * most :][:most], scores[part * most :][:most]), place
            )
            for part in range(parts)
        ]  # fmt: skip

    def _entry(self, query: RowsQuery, part: "_Part", place: int) -> Entry:
        desk = self._desk
        identity = f"{query.identity}.{part.number}" if part.number else query.identity
        record = _Record(
            query.identity, query.rows.id, self._name, self._now_us, self._epoch, self._digest, self._version,
            self._features, *part, self._degraded, query.traceparent[3:35],
        )  # fmt: skip
        headers = [*self._headers, ("ce_id", identity.encode()), ("traceparent", query.traceparent.encode())]
        partition = (self._turn + place) % desk.spec.partitions
        return Entry("inference", desk.spec.name, desk.topic, partition, None, _encode(record), headers, self._now_us)


class _Part(NamedTuple):
    number: int
    of: int
    rows: list[list[float]]
    scores: list[float]


_encode = msgspec.json.Encoder().encode
_UNANSWERED = RefusedError(503, "no answer", "the model has no finite answer to these inputs")
