"""Finds the numbers of many bodies at once, where what stands around them has been read before (`domain.bodies`)."""

import numpy as np

from tidemill_runtime.compiled import compiled
from tidemill_runtime.http.together import Asked
from tidemill_runtime.http.wire_compiled import BODY, COLUMNS, END, START
from tidemill_runtime.known import BASIS, PRIME, Bytes, Ints, Known, Table, find
from tidemill_serving.domain.bodies import LONGEST_FORM, Unread

_QUOTED = b'"data"'
_OPEN, _CLOSE, _COLON, _MINUS, _NOUGHT, _NINTH = b"[]:-09"


@compiled
def _behind_blanks(raw: Bytes, at: int, end: int) -> int:
    while at < end and (raw[at] == 32 or raw[at] == 9 or raw[at] == 10 or raw[at] == 13):  # noqa: PLR2004 - ASCII
        at += 1
    return at


@compiled
def _opened(raw: Bytes, at: int, end: int) -> int:
    """The place of the bracket of an array of numbers that is the member named `data` at `at`; -1 for anything else."""
    at = _behind_blanks(raw, at + len(_QUOTED), end)
    if at >= end or raw[at] != _COLON:
        return -1
    start = _behind_blanks(raw, at + 1, end)
    if start >= end or raw[start] != _OPEN:
        return -1
    at = _behind_blanks(raw, start + 1, end)
    return start if at < end and (raw[at] == _MINUS or _NOUGHT <= raw[at] <= _NINTH) else -1


@compiled
def _member(raw: Bytes, at: int, end: int) -> int:
    """Where `_QUOTED` stands first; -1 for nowhere."""
    size = len(_QUOTED)
    while at + size <= end:
        matched = 0
        while matched < size and raw[at + matched] == _QUOTED[matched]:
            matched += 1
        if matched == size:
            return at
        at += 1
    return -1


@compiled
def _find_all(raw: Bytes, rows: Ints, known: Table, out: Ints) -> None:
    """For each body the number of its form (-1: unknown) and where its array opens."""
    for each in range(len(rows)):
        begin, end = rows[each, BODY], rows[each, END]
        out[each, 0], out[each, 1] = -1, -1
        member = _member(raw, begin, end)
        start = _opened(raw, member, end) if member >= 0 else -1
        if start < 0:
            continue
        close = start
        while close < end and raw[close] != _CLOSE:
            close += 1
        if close == end:
            continue
        mark = BASIS
        for at in range(begin, start + 1):
            mark = (mark ^ np.uint64(raw[at])) * PRIME
        for at in range(close, end):
            mark = (mark ^ np.uint64(raw[at])) * PRIME
        number, _ = find(known, mark, raw, (begin, start + 1, close, end))
        out[each, 0], out[each, 1] = number, start


class Forms:
    """The forms that bodies have had."""

    def __init__(self) -> None:
        self._known = Known[tuple[int, int, str]]()
        rows = np.empty((0, COLUMNS), np.int64)
        _find_all(np.empty(0, np.uint8), rows, self._known.table, rows)  # compile now

    def learn(self, found: Unread) -> None:
        """A body of this form was read; one with an id of its own is no form."""
        raw, start = found.raw, found.start
        around = raw[: start + 1] + raw[raw.find(b"]", start) :]
        if found.id is None and len(around) <= LONGEST_FORM:
            self._known.learn(around, 0, (found.height, found.width, found.datatype))

    def find(self, asked: Asked) -> list[Unread | None]:
        """The rows of each body as `Bodies.find` has them, in the whole request's bytes; None for no known form."""
        out: Ints = np.empty((len(asked.rows), 2), np.int64)
        _find_all(asked.raw, asked.rows, self._known.table, out)
        forms, found = self._known.found, list[Unread | None]()
        for place, (number, at) in enumerate(out.tolist()):
            if number < 0:
                found.append(None)
                continue
            height, width, datatype = forms[number]
            start = at - asked.places[place][START]
            found.append(Unread(height, width, None, asked.data(place), start, datatype))
        return found
