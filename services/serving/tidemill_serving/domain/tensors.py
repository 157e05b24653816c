"""Requests of rows: what the open inference protocol asks, and a batch's answers and log records.

Rows in their usual form are still bytes when a batch begins (`bodies`): all of them are read at once, into the matrix.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.events import Inference
from tidemill_serving.domain.bodies import INPUT, MAXIMUM_ROWS, OUTPUT, Unread
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.capture import InputCapture
from tidemill_serving.domain.desk import Desk, Drafts, Loaded, Result
from tidemill_serving.domain.frames import Logged, Sheaf
from tidemill_serving.domain.heads import ID, TRACE_CONTEXT, front, timed
from tidemill_serving.domain.numbers import Float32s, Int64s, Places, read_arrays
from tidemill_serving.domain.scoring import Floats, score
from tidemill_serving.domain.weaving import OWN, SHARED, SIZE, TRACE, Piece, Pieces, opening, pattern

VALUES_PER_RECORD = 20_000
"""At most 25 bytes each: Kafka takes such a record."""
UNREADABLE = RefusedError(400, "unusual", "the rows are not in their usual form")
"""What an `Unread` request comes to whose array is none of numbers alone: the careful reader shall look at it."""


class Text(NamedTuple):
    """Rows for the log: `[a,b],[c,d]`, and the place behind each row, from `place` on in `ends`."""

    text: bytes | memoryview
    ends: Sequence[int] | Int64s
    place: int = 0

    def part(self, first: int, last: int) -> bytes | memoryview:
        """The rows from `first` to before `last`, as a list's items."""
        start = self.ends[self.place + first - 1] + 1 if first else 0
        return self.text[start : self.ends[self.place + last - 1]]


class Rows(NamedTuple):
    """A checked request: its rows as the model takes them [N, F], and as they are logged."""

    values: Float32s
    text: Text
    id: str | None = None
    datatype: str = "FP32"

    @property
    def height(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return int(self.values.shape[1])


def matrix_rows(values: NDArray[np.floating], identity: str | None = None, datatype: str = "FP32") -> Rows:
    """The rows of a matrix [N, F] of finite numbers."""
    rows = [_JSON.encode(row) for row in values.tolist()]
    ends = list(accumulate((len(row) + 1 for row in rows), initial=-1))[1:]
    with np.errstate(over="ignore"):
        return Rows(values.astype(np.float32), Text(b",".join(rows), ends), identity, datatype)


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

    rows: Rows | Unread
    identity: str
    traceparent: str
    version: str | None = None
    render: Callable[[Scored], bytes] | None = None


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
    matrix, texts = _read(good, width)
    if good:
        writer = _Writer(desk, active, now_us=now_us, degraded=degraded)
        made = iter(writer.write(good, texts, score(active.members, [], matrix).mixed, drafts.entries))
    drafts.results[:] = [next(made) if refused is None else refused for refused in refusals]
    return drafts


def _refusal(query: RowsQuery, width: int) -> RefusedError:
    if query.rows.width == width:
        return RefusedError(404, "no such model", "no such model, or none of that version")
    return RefusedError(400, "shape", f"{INPUT} must have the shape [1 to {MAXIMUM_ROWS}, {width}]")


def _read(queries: Sequence[RowsQuery], width: int) -> tuple[Float32s, list[Text | None]]:
    """The matrix of all rows in their order, and each query's text; what cannot be read is rows of zeros."""
    matrix = np.empty((sum(query.rows.height for query in queries), width), np.float32)
    texts: list[Text | None] = []
    first = row = 0
    while first < len(queries):
        last = first
        while last < len(queries) and isinstance(queries[last].rows, Unread):
            last += 1
        unread = [query.rows for query in queries[first:last] if isinstance(query.rows, Unread)]
        texts += _read_on(unread, matrix[row:])
        row += sum(rows.height for rows in unread)
        if last < len(queries) and isinstance(rows := queries[last].rows, Rows):
            matrix[row : row + rows.height] = rows.values
            texts.append(rows.text)
            row += rows.height
        first = last + 1
    return matrix, texts


def _read_on(unread: Sequence[Unread], matrix: Float32s) -> list[Text | None]:
    """Read into the first rows of the matrix."""
    if not unread:
        return []
    starts, offset = [], 0
    for rows in unread:
        starts.append(offset + rows.start)
        offset += len(rows.raw)
    heights = [rows.height for rows in unread]
    found = read_arrays(Places(b"".join([rows.raw for rows in unread]), starts, heights), matrix)
    rows_before = accumulate(heights, initial=0)
    return [
        None if text is None else Text(text, found.ends, row)
        for text, row in zip(found.texts, rows_before, strict=False)
    ]


class _Asked(NamedTuple):
    """A query that is answered: its number, the rows as they are logged, the first one's number and that behind all."""

    number: int
    query: RowsQuery
    text: Text
    first: int
    last: int


class _Writer:
    """Answers and log records of one batch: what all of them share is made once."""

    def __init__(self, desk: Desk, active: Loaded, *, now_us: int, degraded: bool) -> None:
        self._name, self._partitions, self._now_us = desk.spec.name, desk.spec.partitions, now_us
        self._inputs = desk.inputs
        self._most = max(1, VALUES_PER_RECORD // len(active.plan.features))
        name, version, leader = self._name, str(active.leader.version), active.leader
        self._version = version
        # `tidemill_contracts.events.Inference`, field by field; none of these texts needs escapes.
        self._shared = [
            opening("inference", name, desk.topic),
            b'{"inference_id":"', b'","request_id":',
            (
                f',"pipeline":"{name}","at_us":{now_us},"epoch":{active.released.epoch},"model":"{leader.digest}",'
                f'"version":{version},"features":"{active.plan.digest}","part":'
            ).encode(),
            b',"rows":[', b'],"scores":[', b'],"degraded":%b,"trace_id":"' % (b"true" if degraded else b"false"), b'"}',
            front(Inference.TYPE, desk.source) + timed(now_us) + ID, TRACE_CONTEXT,
            b'{"model_name":"%b","model_version":"%b","id":' % (name.encode(), version.encode()),
            b',"parameters":{"inference_id":"',
            b'"},"outputs":[{"name":"%b","datatype":"FP32","shape":[' % OUTPUT.encode(),
            b'],"data":[', b"]}]}",
        ]  # fmt: skip

    def write(
        self, queries: Sequence[RowsQuery], texts: Sequence[Text | None], scores: Floats, entries: list[Logged]
    ) -> list[Result]:  # fmt: skip
        """The answers to queries whose rows are scored one behind the other; their records go to `entries`.

        `texts` are the rows as they are logged, None where they could not be read.
        """
        results: list[Result] = [UNREADABLE if text is None else _UNANSWERED for text in texts]
        lasts = list(accumulate([query.rows.height for query in queries]))
        bad = set(np.searchsorted(lasts, np.flatnonzero(np.isnan(scores)), side="right").tolist())
        asked = [
            _Asked(number, query, text, last - query.rows.height, last)
            for number, (query, text, last) in enumerate(zip(queries, texts, lasts, strict=True))
            if text is not None and number not in bad
        ]
        if not asked:
            return results
        numbers = _JSON.encode(scores.tolist())[1:-1].split(b",")
        columns = _columns(asked, numbers)
        if self._inputs is not None:
            _leave_out(self._inputs, asked, columns)
        pieces = Pieces(self._shared, columns)
        for one, answer in zip(asked, pieces.texts(_ANSWER), strict=True):
            results[one.number] = answer if one.query.render is None else one.query.render(self._scored(one, scores))
        places: Sequence[int] = range(len(asked))
        if any(one.last - one.first > self._most for one in asked):
            places = self._part(asked, columns, numbers)
            pieces = Pieces(self._shared, columns)
        at = np.empty((len(places), 2), np.int64)  # rows of no entity go to the partitions in turn
        at[:, 0], at[:, 1] = (self._now_us + np.array(places)) % self._partitions, self._now_us
        entries.append(Sheaf("inference", self._name, pieces.frames(_RECORD, _HEAD, at), len(places)))
        return results

    def _scored(self, one: _Asked, scores: Floats) -> Scored:
        query = one.query
        own = query.rows.id or query.identity
        return Scored(self._name, self._version, own, query.identity, scores[one.first : one.last].tolist())

    def _part(self, asked: Sequence[_Asked], columns: list[list[Piece]], numbers: list[bytes]) -> Sequence[int]:
        """Give more rows than a record holds to more records, all in the partition of the first; each one's place."""
        parted: list[list[Piece]] = [[] for _ in columns]
        places = list[int]()
        for one, own in zip(asked, zip(*columns, strict=True), strict=True):
            height, place = one.last - one.first, len(places)
            parts = -(-height // self._most) if own[_ROWS] is one.text.text else 1
            for number in range(parts):
                begin, end = number * self._most, min(height, (number + 1) * self._most)
                piece = list(own)
                if parts > 1:
                    piece[_ROWS] = one.text.part(begin, end)
                    piece[_SCORES] = b",".join(numbers[one.first + begin : one.first + end])
                    piece[_PART] = b'%d,"parts":%d%b' % (number, parts, own[_PART][len(_WHOLE) :])
                if number:
                    piece[_EVENT] = b"%b.%d" % (one.query.identity.encode(), number)
                for column, what in zip(parted, piece, strict=True):
                    column.append(what)
                places.append(place)
        columns[:] = parted
        return places


_WHOLE = b'0,"parts":1'
_IDS, _EVENT, _TRACES, _OWN, _SAID, _HEIGHTS, _ROWS, _SCORES, _PART = range(9)
"""Columns: ids of inferences and of their events, the request's own id in the record and in the answer, and so on."""


def _columns(asked: Sequence[_Asked], numbers: list[bytes]) -> list[list[Piece]]:
    """Of records that hold all rows of their request each."""
    ids = [one.query.identity.encode() for one in asked]
    own = [one.query.rows.id for one in asked]
    said: list[Piece] = [
        b'"%b"' % identity if name is None else _JSON.encode(name) for identity, name in zip(ids, own, strict=True)
    ]
    logged: list[Piece] = [
        b"null" if name is None else written for name, written in zip(own, said, strict=True)
    ]  # fmt: skip
    heights = [one.last - one.first for one in asked]
    scores: list[Piece] = [
        numbers[one.first] if height == 1 else b",".join(numbers[one.first : one.last])
        for one, height in zip(asked, heights, strict=True)
    ]
    return [
        [*ids], [*ids], [one.query.traceparent.encode() for one in asked], logged, said,
        [b"%d" % height for height in heights], [one.text.text for one in asked], scores,
        [_WHOLE] * len(asked),
    ]  # fmt: skip


def _leave_out(inputs: InputCapture, asked: Sequence[_Asked], columns: list[list[Piece]]) -> None:
    """What the pipeline file does not want in the log; the record says so."""
    for place, one in enumerate(asked):
        rows = one.query.rows
        height, width = one.last - one.first, rows.width
        kept, many = inputs.rows(INPUT, rows.id or one.query.identity, (height, width))
        if kept != "all":
            columns[_ROWS][place] = one.text.part(0, many) if many else b""
        said = f'"name":"{INPUT}","datatype":"{rows.datatype}","shape":[{height},{width}],"values":"{kept}"'
        columns[_PART][place] = _WHOLE + b',"inputs":[{%b}]' % said.encode()


_ANSWER = pattern(
    (SHARED, 10), (OWN, _SAID), (SHARED, 11), (OWN, _IDS), (SHARED, 12), (OWN, _HEIGHTS), (SHARED, 13), (OWN, _SCORES),
    (SHARED, 14),
)  # fmt: skip
_RECORD = pattern(
    (SHARED, 1), (OWN, _IDS), (SHARED, 2), (OWN, _OWN), (SHARED, 3), (OWN, _PART), (SHARED, 4), (OWN, _ROWS),
    (SHARED, 5), (OWN, _SCORES), (SHARED, 6), (TRACE, _TRACES), (SHARED, 7),
)  # fmt: skip
_HEAD = pattern((SHARED, 8), (SIZE, _EVENT), (OWN, _EVENT), (SHARED, 9), (SIZE, _TRACES), (OWN, _TRACES))
_JSON = msgspec.json.Encoder()
_UNANSWERED = RefusedError(503, "no answer", "the model has no finite answer to these inputs")
