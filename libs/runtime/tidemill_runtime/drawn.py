"""Ids drawn at random, many at a time: one by one the calls would cost more than what they give."""

import os
from collections.abc import Mapping

_UUID, _NEW_TRACE = "########-####-####-####-############", "00-" + "#" * 32 + "-" + "#" * 16 + "-01"
_AT_ONCE = 256
_DIGITS = b"0123456789abcdef"
_VERSION_4 = {14: bytes.maketrans(_DIGITS, b"4" * 16), 19: bytes.maketrans(_DIGITS, b"89ab" * 4)}
"""The version and the variant: at their places only some digits stand."""


class Drawn:
    """Random hexadecimal digits, and ids made of them; none is given twice."""

    def __init__(self) -> None:
        self._digits = self._uuids = self._traces = ""
        self._place = self._next_uuid = self._next_trace = 0
        os.register_at_fork(after_in_child=self._forget)  # two processes must not give the same

    def take(self, count: int) -> str:
        """The next `count` digits, never given twice."""
        start = self._place
        if start + count > len(self._digits):
            self._digits, start = os.urandom(8192).hex(), 0
        self._place = start + count
        return self._digits[start : self._place]

    def uuid(self) -> str:
        """A random UUID (version 4) as text."""
        start = self._next_uuid
        if start == len(self._uuids):
            self._uuids, start = _laid_out(_UUID, _VERSION_4), 0
        self._next_uuid = start + len(_UUID)
        return self._uuids[start : self._next_uuid]

    def traceparent(self) -> str:
        """A new trace that is sampled."""
        start = self._next_trace
        if start == len(self._traces):
            self._traces, start = _laid_out(_NEW_TRACE, {}), 0
        self._next_trace = start + len(_NEW_TRACE)
        return self._traces[start : self._next_trace]

    def _forget(self) -> None:
        self._digits = self._uuids = self._traces = ""
        self._place = self._next_uuid = self._next_trace = 0


def _laid_out(form: str, tables: Mapping[int, bytes]) -> str:
    """Many texts of a form one after the other, a random digit for each `#`; by its table for a place that has one."""
    digits = os.urandom(_AT_ONCE * form.count("#") // 2).hex().encode()
    out, at = bytearray(_AT_ONCE * len(form)), 0
    for place, letter in enumerate(form):
        if letter != "#":
            out[place :: len(form)] = letter.encode() * _AT_ONCE
            continue
        column, at = digits[at : at + _AT_ONCE], at + _AT_ONCE
        table = tables.get(place)
        out[place :: len(form)] = column if table is None else column.translate(table)
    return out.decode()


drawn = Drawn()
