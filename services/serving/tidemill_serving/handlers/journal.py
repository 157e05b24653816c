"""The prediction log as those write to it who answer for imported models."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidemill_serving.domain.entries import Entry, LogRefusedError
from tidemill_serving.domain.house import House, Log

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Journal:
    """A log, who writes to it (`source`), and who is told of every write (`appended`)."""

    house: House
    log: Log
    source: str
    appended: Callable[[], None]
    now_us: Callable[[], int]

    def append(self, entries: Sequence[Entry]) -> bool:
        """Write all of them with one write, or none: false."""
        try:
            self.log.append(entries)
        except LogRefusedError as error:
            self.house.counts.log_refused += 1
            _log.warning("not logged: %s", error)
            return False
        self.appended()
        return True
