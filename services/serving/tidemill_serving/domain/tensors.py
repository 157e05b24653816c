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
from tidemill_serving.domain.desk import Desk, Drafts, Loaded, Result
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.heads import front, stamped, timed
from tidemill_serving.domain.numbers import Float32s, Int64s, Places, read_arrays
from tidemill_serving.domain.scoring import score

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

    @property
    def height(self) -> int:
        return len(self.values)

    @property
    def width(self) -> int:
        return int(self.values.shape[1])


def matrix_rows(values: NDArray[np.floating], identity: str | None = None) -> Rows:
    """The rows of a matrix [N, F] of finite numbers."""
    rows = [_JSON.encode(row) for row in values.tolist()]
    ends = list(accumulate((len(row) + 1 for row in rows), initial=-1))[1:]
    with np.errstate(over="ignore"):
        return Rows(values.astype(np.float32), Text(b",".join(rows), ends), identity)


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
    scores, first = score(active.members, [], matrix).mixed.tolist() if good else [], 0
    render = _Renderer(desk, active, scores, now_us=now_us, degraded=degraded)
    text = iter(texts)
    for query, refused in zip(queries, refusals, strict=True):
        if refused is not None:
            drafts.results.append(refused)
            continue
        drafts.results.append(render.take(query, next(text), first, drafts.entries))
        first += query.rows.height
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


class _Renderer:
    """Answers and log records of one batch: what all of them share is made once."""

    def __init__(
        self, desk: Desk, active: Loaded, scores: list[float], *, now_us: int, degraded: bool
    ) -> None:  # fmt: skip
        """`scores` are those of all rows."""
        self._scores, self._numbers = scores, _JSON.encode(scores)[1:-1].split(b",")
        self._name, self._topic, self._partitions = desk.spec.name, desk.topic, desk.spec.partitions
        self._now_us, self._version = now_us, str(active.leader.version)
        self._most = max(1, VALUES_PER_RECORD // len(active.plan.features))
        name, version, leader = self._name, self._version, active.leader
        self._answer = b'{"model_name":"%b","model_version":"%b","id":' % (name.encode(), version.encode())
        # `tidemill_contracts.events.Inference`, field by field; none of these texts needs escapes.
        self._record = (
            f',"pipeline":"{name}","at_us":{now_us},"epoch":{active.released.epoch},"model":"{leader.digest}",'
            f'"version":{version},"features":"{active.plan.digest}","part":'
        ).encode()
        self._end = b'],"degraded":%b,"trace_id":"' % (b"true" if degraded else b"false")
        self._begun = front(Inference.TYPE, desk.source) + timed(now_us)

    def take(self, query: RowsQuery, text: Text | None, first: int, entries: list[Entry]) -> Result:
        """The answer to a query whose rows are those from `first` on; its records go to `entries`.

        `text` are the rows as they are logged, None where they could not be read.
        """
        if text is None:
            return UNREADABLE
        height = query.rows.height
        last = first + height
        numbers = self._numbers[first] if height == 1 else b",".join(self._numbers[first:last])
        if b"n" in numbers:  # a null, which NaN is in JSON
            return _UNANSWERED
        identity, own = query.identity.encode(), query.rows.id
        if height <= self._most:
            entries.append(self._entry(query, identity, _Part(0, 1, text.text, numbers), len(entries)))
        else:
            self._log_parts(query, text, first, entries)
        if query.render is not None:
            scores = self._scores[first:last]
            return query.render(Scored(self._name, self._version, own or query.identity, query.identity, scores))
        return b'%b%b,"parameters":{"inference_id":"%b"},"outputs":[%b%d],"data":[%b]}]}' % (
            self._answer, b'"%b"' % identity if own is None else _JSON.encode(own), identity, _SCORES, height, numbers,
        )  # fmt: skip

    def _log_parts(self, query: RowsQuery, text: Text, first: int, entries: list[Entry]) -> None:
        """More rows than a record holds, in the partition of the first part."""
        height, most, place = query.rows.height, self._most, len(entries)
        parts = -(-height // most)
        for number in range(parts):
            begin, end = number * most, min(height, (number + 1) * most)
            numbers = b",".join(self._numbers[first + begin : first + end])
            part = _Part(number, parts, text.part(begin, end), numbers)
            entries.append(self._entry(query, query.identity.encode(), part, place))

    def _entry(self, query: RowsQuery, identity: bytes, part: "_Part", place: int) -> Entry:
        """A log record; rows of no entity go to the partitions in turn."""
        trace, own = query.traceparent.encode(), query.rows.id
        record = b"".join((
            b'{"inference_id":"', identity, b'","request_id":', b"null" if own is None else _JSON.encode(own),
            self._record, b'%d,"parts":%d,"rows":[' % (part.number, part.of), part.rows,
            b'],"scores":[', part.scores, self._end, trace[3:35], b'"}',
        ))  # fmt: skip
        if part.number:
            identity = b"%b.%d" % (identity, part.number)
        head, partition = stamped(self._begun, identity, trace), (self._now_us + place) % self._partitions
        return Entry("inference", self._name, self._topic, partition, None, record, head, self._now_us)


class _Part(NamedTuple):
    """Rows and scores of one record, each a list's items, and its number of so many."""

    number: int
    of: int
    rows: bytes | memoryview
    scores: bytes


_JSON = msgspec.json.Encoder()
_SCORES = b'{"name":"%b","datatype":"FP32","shape":[' % OUTPUT.encode()
_UNANSWERED = RefusedError(503, "no answer", "the model has no finite answer to these inputs")
