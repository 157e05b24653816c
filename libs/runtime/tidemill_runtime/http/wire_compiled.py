"""The compiled half of `wire`: many sockets are read and their heads recognised, or written, by one call."""

import select
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numpy.typing import NDArray

from tidemill_runtime.compiled import compiled
from tidemill_runtime.known import BASIS, PRIME, Bytes, Ints, Table, c_function, find

Words = NDArray[np.uint32]
SOCKET, START, END, HEAD, TRACE, BODY = range(6)
"""Columns of what was read: the descriptor, where its bytes stand in the arena, the number of its known head (or
`OTHER`), where its trace context stands (or -1), and where its body begins."""
COLUMNS, OTHER = 6, -1
MOST, EACH = 256, 64 * 1024
"""Events that the system tells at a time, and bytes that are read of each connection."""
EDGE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
CONTEXT = 55
"""Bytes of a trace context."""
_NAME = b"\r\ntraceparent: "
_BEFORE, _LINE = len(_NAME), len(_NAME) + CONTEXT
_NO_SIGNAL, _DO_NOT_WAIT = 0x4000, 0x40
_RETURN, _NEWLINE, _DASH, _ZERO, _ONE, _NINE, _A, _F = b"\r\n-019af"

_epoll_wait = c_function("epoll_wait", types.int32, types.int32, types.intp, types.int32, types.int32)
DIGITS = 48
"""Hexadecimal digits that a context may need: 32 of a trace, 16 of a span."""
_receive = c_function("recv", types.int64, types.int32, types.intp, types.uint64, types.int32)
_send = c_function("send", types.int64, types.int32, types.intp, types.uint64, types.int32)


class Lines(NamedTuple):
    """What is known of connections, by their descriptors.

    `waits`: whether an answer is due or has not been sent yet; `rows`: the row of what was read in this call, or -1;
    `heard`: when it was refused last, by the loop's clock.
    """

    waits: NDArray[np.bool_]
    rows: Ints
    heard: NDArray[np.float64]

    @classmethod
    def of(cls, count: int) -> "Lines":
        """For so many descriptors."""
        return cls(np.zeros(count, np.bool_), np.full(count, -1), np.full(count, -np.inf))

    def grown(self, count: int) -> "Lines":
        """For more of them."""
        more = Lines.of(count)
        for old, new in zip(self, more, strict=True):
            new[: len(old)] = old
        return more


@compiled
def _is_id(raw: Bytes, start: int, end: int) -> bool:
    """Whether hexadecimal digits stand here, not all of them 0."""
    is_some = False
    for at in range(start, end):
        byte = raw[at]
        if not (_ZERO <= byte <= _NINE or _A <= byte <= _F):
            return False
        is_some = is_some or byte != _ZERO
    return is_some


@compiled
def _is_context(raw: Bytes, at: int) -> bool:
    """Whether a trace context of version 00 stands here (W3C Trace Context, section 3.2), its flags 00 or 01."""
    if raw[at] != _ZERO or raw[at + 1] != _ZERO or raw[at + 2] != _DASH or raw[at + 35] != _DASH:
        return False
    if raw[at + 52] != _DASH or raw[at + 53] != _ZERO or raw[at + 54] & 0xFE != _ZERO:
        return False
    return bool(_is_id(raw, at + 3, at + 35) and _is_id(raw, at + 36, at + 52))


@compiled
def _is_trace(raw: Bytes, at: int, end: int) -> bool:
    """Whether a line with a trace context begins with the line's end at `at`, and is followed by another one."""
    if at + _LINE + 2 > end or raw[at + _LINE] != _RETURN or raw[at + _LINE + 1] != _NEWLINE:
        return False
    for place in range(_BEFORE):
        if raw[at + place] != _NAME[place]:
            return False
    return bool(_is_context(raw, at + _BEFORE))


@compiled
def _sight(raw: Bytes, start: int, end: int) -> tuple[int, int, Any]:
    """(place of the empty line or -1, place of the trace's line or -1, hash of the head without that line)."""
    at, trace, mark = start, -1, BASIS
    while at < end:
        if raw[at] == _RETURN:
            is_empty = at + 4 <= end and raw[at + 2] == _RETURN and raw[at + 1] == _NEWLINE and raw[at + 3] == _NEWLINE
            if is_empty:
                return at, trace, mark
            if trace < 0 and _is_trace(raw, at, end):
                trace = at
                at += _LINE
                continue
        mark = (mark ^ np.uint64(raw[at])) * PRIME
        at += 1
    return -1, trace, mark


@compiled
def _recognise(known: Table, raw: Bytes, row: Ints) -> None:
    """Fill in what a whole request of a known head is; anything else stays `OTHER`."""
    start, end = row[START], row[END]
    empty, trace, mark = _sight(raw, start, end)
    if empty < 0:
        return
    part = (start, trace, trace + _LINE, empty) if trace >= 0 else (start, empty, empty, empty)
    number, size = find(known, mark, raw, part)
    if number < 0 or end - empty - 4 != size:
        return
    row[HEAD], row[BODY] = number, empty + 4
    row[TRACE] = trace + _BEFORE if trace >= 0 else -1


@compiled
def drain(epoll: int, events: Words, read: tuple[Bytes, Ints], known: Table, lines: Lines) -> int:
    """Read every connection that has something, in the order of their coming; how many there were, each with its row.

    Until none has, or `read` is full, its bytes or its rows: what is not read now has been waiting for no longer than
    since the last call. An event is told once (edge-triggered). A row without bytes: the connection has ended or
    broken; who ends it with its last bytes is no usual client either, nor who asks again before the answer.
    """
    (arena, rows), words, count, at = read, events.shape[1], 0, 0
    while True:
        most = min(len(events), len(rows) - count, (len(arena) - at) // EACH)
        found = _epoll_wait(epoll, events.ctypes.data, most, 0) if most > 0 else 0
        for each in range(found):
            socket = np.int64(events[each, words - 2])
            if lines.rows[socket] >= 0:  # the rest of it is the transport's to read
                rows[lines.rows[socket], HEAD] = OTHER
                continue
            row = rows[count]
            row[SOCKET], row[START], row[END], row[HEAD], row[TRACE], row[BODY] = socket, at, at, OTHER, -1, at
            lines.rows[socket] = count
            count += 1
            got = _receive(socket, arena.ctypes.data + at, EACH, _DO_NOT_WAIT)
            if got <= 0:
                continue
            row[END] = at + got
            at += got
            if got < EACH and events[each, 0] & _ENDED == 0 and not lines.waits[socket]:
                _recognise(known, arena, row)
        if found < most or most <= 0:
            break
    for each in range(count):
        lines.rows[rows[each, SOCKET]] = -1
    return count


@compiled
def push(sockets: Ints, bounds: Ints, raw: Bytes, sent: Ints) -> None:
    """Send each its part of `raw`; how many bytes of it went is left in `sent`, negative where it broke."""
    for each in range(len(sockets)):
        start = bounds[each]
        length = bounds[each + 1] - start
        sent[each] = _send(sockets[each], raw.ctypes.data + start, length, _NO_SIGNAL | _DO_NOT_WAIT)


@compiled
def put_context(text: Bytes, at: int, raw: Bytes, trace: int, digits: Bytes) -> None:
    """Write a context of its own: in the trace whose context stands at `trace` in `raw`, or in a new one (-1)."""
    text[at], text[at + 1], text[at + 2] = _ZERO, _ZERO, _DASH
    for place in range(32):
        text[at + 3 + place] = digits[place] if trace < 0 else raw[trace + 3 + place]
    text[at + 35] = text[at + 52] = _DASH
    text[at + 36 : at + 52] = digits[32:DIGITS]
    text[at + 53], text[at + 54] = _ZERO, _ONE if trace < 0 else raw[trace + 54]


@compiled
def refuse(rows: Ints, raw: Bytes, text: tuple[Bytes, int], digits: Bytes, sent: Ints) -> None:
    """Send each the same text but for its trace context, which begins at `text[1]`; `sent` as in `push`."""
    whole, at = text
    for each in range(len(rows)):
        put_context(whole, at, raw, rows[each, TRACE], digits[each * DIGITS :])
        sent[each] = _send(rows[each, SOCKET], whole.ctypes.data, len(whole), _NO_SIGNAL | _DO_NOT_WAIT)
