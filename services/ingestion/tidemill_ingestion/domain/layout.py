"""Headers of events that this service wrote: most lie as those of the event before, so few are read one by one."""

from typing import NamedTuple

from tidemill_contracts.headers import packed_header, varint
from tidemill_ingestion.domain.framing import headers_in

_ID = packed_header("ce_specversion", b"1.0") + packed_header("ce_id", b"")[:-1]
_TIME, _ORIGIN, _SEQ = (packed_header(name, b"")[:-1] for name in ("ce_time", "tm_origin", "tm_seq"))
_FRONT = {b"ce_type", b"ce_source"}
_OWN = {b"ce_specversion", b"ce_id", b"ce_time", b"tm_origin", b"tm_seq", *_FRONT}
_NAMED = 7  # of them stand in every event


class Said(NamedTuple):
    """What the archive wants to know of an event's headers."""

    id: bytes
    time: bytes
    origin: bytes
    seq: bytes | None


class Layout:
    """What stands between an event's own headers, and is the same for all events of a request.

    `read` gives what `headers_in` would give, or None where it is not sure: then `learn` from what that gave.
    """

    def __init__(self) -> None:
        self._count, self._front, self._back = 0, b"", b""

    def read(self, head: bytes, count: int) -> Said | None:
        """Of `count` headers in `head`; None for headers that lie otherwise."""
        if count != self._count or not head.startswith(_ID):
            return None
        try:
            name, at = _after(head, len(_ID), self._front)
            time, at = _after(head, at, self._back, _TIME)
            origin, at = _after(head, at, b"", _ORIGIN)
            seq, at = _after(head, at, b"", _SEQ)
        except (IndexError, ValueError):
            return None
        return Said(name, time, origin, seq) if at == len(head) else None

    def learn(self, head: bytes, count: int, said: Said) -> None:
        """Remember what lies between the headers that were read with care, if they are in our order."""
        if said.seq is None or not head.startswith(_ID):
            return
        front = len(_ID) + len(varint(len(said.id))) + len(said.id)
        time, origin = (_TIME + _part(said.time), _ORIGIN + _part(said.origin) + _SEQ + _part(said.seq))
        middle, end = head.find(time, front), len(head) - len(origin)
        if middle < 0 or not head.endswith(origin):
            return
        back = middle + len(time)
        try:
            first = headers_in(head, front, len(_FRONT), middle)
            last = headers_in(head, back, count - _NAMED, end)
        except (IndexError, ValueError):
            return
        if first.keys() == _FRONT and _OWN.isdisjoint(last):
            self._count, self._front, self._back = count, head[front:middle], head[back:end]


def _part(value: bytes) -> bytes:
    return varint(len(value)) + value


def _after(head: bytes, at: int, following: bytes, name: bytes = b"") -> tuple[bytes, int]:
    """A value of one length byte behind its header's `name`, and where what follows it ends; or raises."""
    at += len(name)
    size = head[at]
    end = at + 1 + (size >> 1)
    if size > 0x7F or size & 1 or not (head.startswith(name, at - len(name)) and head.startswith(following, end)):  # noqa: PLR2004 - seven bits
        raise ValueError("lies otherwise")
    return head[at + 1 : end], end + len(following)
