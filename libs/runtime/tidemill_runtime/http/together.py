"""Requests of one head that have come together over many connections, and who takes such."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tidemill_runtime.http.heads import Reply
from tidemill_runtime.http.wire_compiled import CONTEXT, TRACE
from tidemill_runtime.known import Bytes, Ints


class Crowd(Protocol):
    """The connections on which requests have come together; `rows` are those of `wire_compiled`, [N, COLUMNS]."""

    def wait(self, rows: Ints) -> Sequence[Reply]:
        """They wait for their answers from now on."""

    def refuse(self, rows: Ints, head: tuple[bytes, bytes], body: bytes) -> None:
        """`Reply.refuse` to each that does not wait, at once; `head` are its parts around a trace context of its own.

        In the trace that the request came with, or in a new one.
        """


class Asked:
    """Whole requests of one head that have come together, in the order of their coming.

    `rows` are those of `wire_compiled`, [N, COLUMNS]; what they point at in `raw` is there until the call returns.
    """

    __slots__ = ("_crowd", "_places", "_replies", "raw", "rows", "view")

    def __init__(self, raw: Bytes, view: memoryview, rows: Ints, crowd: Crowd) -> None:
        self.raw, self.view, self.rows, self._crowd = raw, view, rows, crowd
        self._replies: Sequence[Reply] | None = None
        self._places: list[list[int]] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def places(self) -> list[list[int]]:
        """The rows, as numbers of Python's."""
        if self._places is None or len(self._places) != len(self.rows):
            self._places = self.rows.tolist()
        return self._places

    @property
    def replies(self) -> Sequence[Reply]:
        """Each one's connection. Who asks for them has to answer all that are here."""
        if self._replies is None:
            self._replies = self._crowd.wait(self.rows)
        return self._replies

    def refuse(self, count: int, head: tuple[bytes, bytes], body: bytes) -> None:
        """`Crowd.refuse` the first so many: they are here no more. Only before `replies`."""
        assert self._replies is None  # noqa: S101 - see above
        self._crowd.refuse(self.rows[:count], head, body)
        self.rows = self.rows[count:]

    def data(self, place: int) -> bytes:
        """The bytes of a request, head and all."""
        _, start, end, *_ = self.places[place]
        return bytes(self.view[start:end])

    def bodies(self) -> list[bytes]:
        """The bodies of all."""
        return [bytes(self.view[body:end]) for _, _, end, _, _, body in self.places]

    def contexts(self) -> list[str | None]:
        """The trace contexts that they came with."""
        marks = self.rows[:, TRACE].tolist()
        return [None if at < 0 else str(self.view[at : at + CONTEXT], "latin-1") for at in marks]


@runtime_checkable
class Together(Protocol):
    """A `Take` that also takes many requests of one head together."""

    def __call__(self, body: bytes, trace: str | None, reply: Reply, /) -> bool:
        """See `Take`."""

    def together(self, asked: Asked) -> Sequence[int]:
        """Takes them; the places of those that it leaves, to be taken one by one. No connection is closed in it."""
