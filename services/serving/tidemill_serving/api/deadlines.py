"""`tidemill-deadline-ms`: how long the sender waits. What cannot be in time is refused before it costs anything."""

import re
import time

from tidemill_serving.domain.body import Fault, RefusedError

DEADLINE = "tidemill-deadline-ms"
_MILLISECONDS = re.compile(r"[1-9]\d{0,6}", re.ASCII)


class Deadline:
    """From now on; None never comes."""

    __slots__ = ("_at",)

    def __init__(self, milliseconds: int | None) -> None:
        self._at = None if milliseconds is None else time.perf_counter() + milliseconds / 1000

    def check(self, needed_s: float = 0.0) -> None:
        """Raises RefusedError with 504 when an answer that takes so long would be late."""
        if self._at is not None and time.perf_counter() + needed_s > self._at:
            raise RefusedError(504, "too late", "the answer cannot be given before the deadline that was asked for")


_NEVER = Deadline(None)


def read_deadline(value: str | None) -> Deadline:
    """The deadline in a header; raises RefusedError with 422 for another text than milliseconds."""
    if value is None:
        return _NEVER
    if not _MILLISECONDS.fullmatch(value):
        fault = Fault(DEADLINE, "type", "must be a whole number of milliseconds, from 1")
        raise RefusedError(422, "the request breaks its declaration", "", (fault,))
    return Deadline(int(value))
