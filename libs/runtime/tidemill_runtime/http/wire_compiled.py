"""The compiled half of `wire`: many sockets are read and their heads recognised, or written, by one call."""

import select
from typing import Any

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
"""Connections that are read by a call, and bytes of each."""
EDGE = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET
_ENDED = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
CONTEXT = 55
"""Bytes of a trace context."""
_NAME = b"\r\ntraceparent: "
_BEFORE, _LINE = len(_NAME), len(_NAME) + CONTEXT
_NO_SIGNAL, _DO_NOT_WAIT = 0x4000, 0x40
_RETURN, _NEWLINE, _DASH, _ZERO, _NINE, _A, _F = b"\r\n-09af"

_epoll_wait = c_function("epoll_wait", types.int32, types.int32, types.intp, types.int32, types.int32)
_receive = c_function("recv", types.int64, types.int32, types.intp, types.uint64, types.int32)
_send = c_function("send", types.int64, types.int32, types.intp, types.uint64, types.int32)


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
def drain(epoll: int, events: Words, arena: Bytes, rows: Ints, known: Table) -> int:
    """Read every connection that has something, once; how many there were, each with its row.

    An event is told once (edge-triggered). A row without bytes: the connection has ended or broken; who ends it with
    its last bytes is no usual client either.
    """
    words = events.shape[1]
    count = max(0, _epoll_wait(epoll, events.ctypes.data, MOST, 0))
    at = 0
    for each in range(count):
        row, socket = rows[each], np.int64(events[each, words - 2])
        row[SOCKET], row[START], row[END], row[HEAD], row[TRACE], row[BODY] = socket, at, at, OTHER, -1, at
        got = _receive(socket, arena.ctypes.data + at, EACH, _DO_NOT_WAIT)
        if got <= 0:
            continue
        row[END] = at + got
        at += got
        if got < EACH and events[each, 0] & _ENDED == 0:
            _recognise(known, arena, row)
    return int(count)


@compiled
def push(sockets: Ints, bounds: Ints, raw: Bytes, sent: Ints) -> None:
    """Send each its part of `raw`; how many bytes of it went is left in `sent`, negative where it broke."""
    for each in range(len(sockets)):
        start = bounds[each]
        length = bounds[each + 1] - start
        sent[each] = _send(sockets[each], raw.ctypes.data + start, length, _NO_SIGNAL | _DO_NOT_WAIT)
