"""At a start: what answers repeated requests, from the records on the disk; only the newest are looked into."""

import logging
from collections import deque
from collections.abc import Callable

import msgspec

from tidemill_serving.domain.answers import REMEMBERED, Recent, recall
from tidemill_serving.domain.entries import Entry

_log = logging.getLogger(__name__)


class Remembering:
    """Takes the records of a spool in order, an hour of them in seconds: each is kept as it is until `fill`."""

    def __init__(self) -> None:
        self._newest: dict[str, deque[tuple[bytes, bytes]]] = {}

    def see(self, _number: int, entry: Entry) -> None:
        """The next record."""
        if entry.kind in {"prediction", "bulk"}:
            newest = self._newest.setdefault(entry.pipeline, deque(maxlen=REMEMBERED))
            newest.append((entry.value, entry.origin))

    def fill(self, recent: Callable[[str], Recent]) -> None:
        """Put what was answered into the memory of each pipeline."""
        for pipeline, values in self._newest.items():
            memory = recent(pipeline)
            for value, origin in values:
                try:
                    memory.put(*recall(value, origin))
                except msgspec.MsgspecError as error:
                    _log.warning("a record in the spool is not a prediction: %s", error)
        self._newest.clear()
