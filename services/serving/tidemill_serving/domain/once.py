"""The same id is answered once, whichever worker it reaches: what the log must say before a record goes in."""

from collections.abc import Sequence
from typing import Protocol

from tidemill_serving.domain.answers import Remembered, mark_of
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.frames import Logged
from tidemill_serving.domain.requests import Ask

Known = dict[str, Remembered]
"""What was answered, by prediction id."""


class Once(Protocol):
    """A log that several workers share the ids of."""

    def append_once(self, entries: Sequence[Logged], fresh: Known) -> Known:
        """Log the entries but those whose ids another has logged, and return what was answered to these.

        `fresh` are the answers that somebody may ask for again. All of the rest are in, or none: LogRefusedError.
        """


def is_void(known: Remembered, fresh: Remembered) -> bool:
    """Whether what is known is an earlier answer to the same record of the requests' topic, which never left."""
    return bool(fresh.origin) and known.origin == fresh.origin


def repeat(known: Remembered, ask: Ask) -> bytes | RefusedError:
    """The recorded answer to a request that is sent again; refused when it is another one under the same id."""
    if known.inputs == mark_of(ask.raw, None if ask.extra is None else ask.extra.inline):
        return known.answer
    return RefusedError(422, "the id was used before", "this id was answered before, for other inputs")
