"""The compiled loop of a load: sockets by epoll, without the interpreter.

A load in Python costs about as much as the server that it measures; then the rate that comes out is the load's. Here a
request costs its system calls. One thread; the interpreter's lock is free while it runs.
"""

import ctypes
import platform
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
Words = NDArray[np.uint32]

EPOLL_IN, EPOLL_OUT, EDGE, ADD, CHANGE, NO_SIGNAL, MONOTONIC = 1, 4, 1 << 31, 1, 3, 0x4000, 1
EVENTS, ROOM, LEAST_ROOM, IDLE_MS, NAP_NS, NS = 256, 1 << 26, 1 << 16, 100, 200_000, 1_000_000_000
PATIENCE_S, GOING, OVER, FULL, SILENT = 60, 0, 1, 2, 3
WORDS = 3 if platform.machine() in {"x86_64", "AMD64"} else 4
"""32-bit words of a `struct epoll_event`, packed on x86-64 only; the connection's number is in the last but one."""
NUMBER, DUE, TAKEN, START, END = range(5)
"""Columns of the table of answers: number of the request, when it was due, nanoseconds until its end, where its bytes
stand in the arena (no bytes: the connection broke)."""
ASKED, SINCE, SENT, GOT, WHOLE, OPEN = range(6)
"""Columns of a connection's state: number of its request (-1: none), when that was due, bytes sent, bytes received,
length of the whole answer (0: not known yet), whether it is open."""
TOLD, ISSUED, FIRST, FREE = range(4)
"""Counters of a load: answers, requests sent, and of the ring of idle connections the first and how many."""


class Lines(NamedTuple):
    """The connections: epoll's number, each one's socket, state and buffer; the requests, end to end, and bounds."""

    epoll: int
    fds: Ints
    states: Ints
    buffers: Bytes
    requests: Bytes
    bounds: Ints
    event: Words


class Kept(NamedTuple):
    """What is kept: the answers' bytes, their table, the counters and the ring of idle connections."""

    arena: Bytes
    table: Ints
    counters: Ints
    idle: Ints


class Plan(NamedTuple):
    """When requests are due, in nanoseconds: at `rate` per second (0: as soon as a connection is idle).

    Of idle connections the one is taken that was used last, as pools of clients do, or in their turn.
    """

    started: int
    end: int
    rate: float
    wanted: int
    in_turn: int


def c_function(name: str, *arguments: type) -> Any:  # noqa: ANN401 - a C function has no Python type
    """A function of the C library that compiled code may call."""
    function = getattr(ctypes.CDLL(None), name)
    function.argtypes, function.restype = arguments, ctypes.c_ssize_t
    return function


_int, _size, _at = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
epoll_wait = c_function("epoll_wait", _int, _at, _int, _int)
epoll_ctl = c_function("epoll_ctl", _int, _int, _int, _at)
c_send = c_function("send", _int, _at, _size, _int)
c_receive = c_function("recv", _int, _at, _size, _int)
_clock = c_function("clock_gettime", _int, _at)
_nap = c_function("nanosleep", _at, _at)


@numba.njit(nogil=True)
def _now(clock: Ints) -> int:
    _clock(MONOTONIC, clock.ctypes.data)
    return int(clock[0]) * NS + int(clock[1])


@numba.njit(nogil=True)
def _watch(lines: Lines, line: int, what: int, events: int) -> None:
    # What is told once needs not be looked at again: a receive takes all that there is, or the buffer is too small.
    lines.event[0], lines.event[WORDS - 2], lines.event[WORDS - 1] = events | EDGE, line, 0
    epoll_ctl(lines.epoll, what, lines.fds[line], lines.event.ctypes.data)


@numba.njit(nogil=True)
def listen(lines: Lines) -> None:
    """Hear of what comes to the connections; once, before they are driven."""
    for line in range(len(lines.fds)):
        _watch(lines, line, ADD, EPOLL_IN)


@numba.njit(nogil=True)
def _push(lines: Lines, line: int) -> None:
    """Send what is left of a connection's request; what the socket does not take is sent when it can."""
    state = lines.states[line]
    start, end = lines.bounds[state[ASKED]] + state[SENT], lines.bounds[state[ASKED] + 1]
    done = c_send(lines.fds[line], lines.requests.ctypes.data + start, end - start, NO_SIGNAL)
    waited = state[SENT] > 0
    state[SENT] += max(done, 0)
    if done < end - start:
        _watch(lines, line, CHANGE, EPOLL_IN | EPOLL_OUT)
    elif waited:
        _watch(lines, line, CHANGE, EPOLL_IN)


@numba.njit(nogil=True)
def _ask(lines: Lines, line: int, counters: Ints, due: int) -> None:
    """Send the next request over a connection."""
    state = lines.states[line]
    state[ASKED], state[SINCE] = counters[ISSUED] % (len(lines.bounds) - 1), due
    state[SENT], state[GOT], state[WHOLE] = 0, 0, 0
    counters[ISSUED] += 1
    _push(lines, line)


@numba.njit(nogil=True)
def _digits(data: Bytes, at: int, got: int) -> int:
    value = 0
    while at < got and (data[at] == 32 or 48 <= data[at] <= 57):
        if data[at] != 32:
            value = 10 * value + int(data[at]) - 48
        at += 1
    return value


@numba.njit(nogil=True)
def _whole(data: Bytes, got: int) -> int:
    """The length of an answer with its head, 0 while the head is not whole."""
    name = b"\ncontent-length:"
    length, matched = 0, 0
    for at in range(got):
        byte = data[at]
        lower = byte + 32 if 65 <= byte <= 90 else byte
        matched = matched + 1 if lower == name[matched] else (1 if lower == name[0] else 0)
        if matched == len(name):
            length, matched = _digits(data, at + 1, got), 0
        if at >= 3 and byte == 10 and data[at - 1] == 13 and data[at - 2] == 10 and data[at - 3] == 13:
            return at + 1 + length
    return 0


@numba.njit(nogil=True)
def _hear(lines: Lines, line: int) -> bool:
    """Read what has come to a connection; True when its request is over, by an answer or because it broke."""
    state, buffer = lines.states[line], lines.buffers[line]
    got = c_receive(lines.fds[line], buffer.ctypes.data + state[GOT], len(buffer) - state[GOT], 0)
    if got <= 0:
        was = bool(state[OPEN] != 0 and state[ASKED] >= 0)
        state[OPEN], state[GOT] = 0, 0
        return was
    state[GOT] += got
    if state[WHOLE] == 0:
        state[WHOLE] = _whole(buffer, state[GOT])
    return bool(state[WHOLE] > 0 and state[GOT] >= state[WHOLE])


@numba.njit(nogil=True)
def _note(lines: Lines, line: int, kept: Kept, now: int) -> bool:
    """Keep an answer; False when there is no room for it."""
    state, count = lines.states[line], kept.counters[TOLD]
    start = kept.table[count - 1, END] if count else 0
    if count == len(kept.table) or start + state[GOT] > len(kept.arena):
        return False
    kept.arena[start : start + state[GOT]] = lines.buffers[line, : state[GOT]]
    row = kept.table[count]
    row[NUMBER], row[DUE], row[TAKEN] = state[ASKED], state[SINCE], now - state[SINCE]
    row[START], row[END] = start, start + state[GOT]
    kept.counters[TOLD] += 1
    state[ASKED] = -1
    return True


@numba.njit(nogil=True)
def _start(lines: Lines, kept: Kept, plan: Plan, now: int) -> None:
    """Send over idle connections what is due."""
    counters = kept.counters
    while counters[FREE] > 0:
        due = now
        if plan.rate > 0:
            due = plan.started + int(counters[ISSUED] * NS / plan.rate)
            if counters[ISSUED] == plan.wanted or due > now:
                return
        elif now >= plan.end:
            return
        counters[FREE] -= 1
        line = kept.idle[(counters[FIRST] + (counters[FREE] if plan.in_turn == 0 else 0)) % len(kept.idle)]
        if plan.in_turn != 0:
            counters[FIRST] = (counters[FIRST] + 1) % len(kept.idle)
        _ask(lines, line, counters, due)


@numba.njit(nogil=True)
def _state(lines: Lines, kept: Kept, plan: Plan, now: int) -> int:
    told, issued = kept.counters[TOLD], kept.counters[ISSUED]
    if told == issued and (issued == plan.wanted if plan.rate > 0 else now >= plan.end):
        return OVER
    if not lines.states[:, OPEN].any():
        return OVER
    return SILENT if now > plan.end + PATIENCE_S * NS else GOING


@numba.njit(nogil=True)
def _after(lines: Lines, line: int, kept: Kept, plan: Plan, now: int) -> None:
    """A connection that has its answer asks again, or is idle."""
    counters = kept.counters
    if lines.states[line, OPEN] == 0:
        return
    if plan.rate == 0 and now < plan.end:
        _ask(lines, line, counters, now)
    else:
        kept.idle[(counters[FIRST] + counters[FREE]) % len(kept.idle)] = line
        counters[FREE] += 1


@numba.njit(nogil=True)
def drive(lines: Lines, kept: Kept, rate: float, seconds: float, in_turn: int) -> tuple[int, int]:
    """Run a load; how it ended (`OVER`, `FULL`: no room, `SILENT`: no answer for a minute) and its nanoseconds.

    `rate` 0 is a closed loop for `seconds`; else `rate * seconds` requests, each due at its time, those that find no
    idle connection sent as soon as there is one. The requests are taken in turn.
    """
    events, clock, nap = np.zeros((EVENTS, WORDS), dtype=np.uint32), np.zeros(2, dtype=np.int64), np.array([0, NAP_NS])
    started = _now(clock)
    plan = Plan(started, started + int(seconds * NS), rate, int(rate * seconds), in_turn)
    while True:
        now = _now(clock)
        _start(lines, kept, plan, now)
        state = _state(lines, kept, plan, now)
        if state != GOING:
            return state, now - started
        timed = rate > 0 and kept.counters[ISSUED] < plan.wanted
        ready = epoll_wait(lines.epoll, events.ctypes.data, EVENTS, 0 if timed else IDLE_MS)
        if ready <= 0 and timed:
            _nap(nap.ctypes.data, 0)
        for each in range(ready):
            line = int(events[each, WORDS - 2])
            if events[each, 0] & EPOLL_OUT and lines.states[line, ASKED] >= 0:
                _push(lines, line)
            if events[each, 0] != EPOLL_OUT and _hear(lines, line):
                now = _now(clock)
                if not _note(lines, line, kept, now):
                    return FULL, now - started
                _after(lines, line, kept, plan, now)
