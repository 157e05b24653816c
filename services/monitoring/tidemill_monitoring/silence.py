"""Writers of the log that have stopped telling how far they are: the clock's part, which only ever proposes.

What a clock makes happen is first written to the log (`LogAndStore.declare_gone`); the merge follows the record, not
the clock, so that another reader of the same log comes to the same.
"""

import time
from collections.abc import Iterator

from tidemill_monitoring.domain.merge import Input, OrderedMerge

SILENT_S = 60.0
LOOK_S = 1.0


class Silence:
    """Who has held the others up without a word for `silent_s` seconds, while the others did speak."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        self._silent_s = silent_s
        self._heard: dict[tuple[Input, str], float] = {}
        self._spoken: dict[Input, float] = {}
        self._began = self._looked = time.monotonic()

    def heard(self, place: Input, writer: str) -> None:
        """A writer's word was read just now."""
        now = time.monotonic()
        last = self._spoken.get(place)
        if last is None or now - last > self._silent_s:
            # Nobody spoke: the broker was away, or all of them. What was heard before tells nothing of who has gone.
            self._heard = {known: now for known in self._heard if known[0] != place} | {
                known: max(now, at) for known, at in self._heard.items() if known[0] == place
            }
        self._heard[place, writer] = self._spoken[place] = now

    def silent(self, merge: OrderedMerge) -> Iterator[tuple[Input, str]]:
        """Looks once a second; one that was told of is told of again only after as long a time."""
        now = time.monotonic()
        if now - self._looked < min(LOOK_S, self._silent_s):
            return
        self._looked = now
        for place, spoken in list(self._spoken.items()):
            if now - spoken > self._silent_s:
                continue
            for writer in merge.progress(place).laggards():
                if now - self._heard.setdefault((place, writer), now) > self._silent_s:
                    self._heard[place, writer] = now
                    yield place, writer
