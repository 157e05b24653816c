"""How far a partition has got that several write: the lowest word of those that write it, never back.

Every replica and every worker of serving tells the log by itself that nothing of its own below an event time follows.
What all of them have passed is the lowest of their words. Who writes is told by the log alone, so that every reader of
the same records comes to the same: a writer is one from its first word on, until the log says that it has gone. A word
never takes back what was reached: a row that lies below (of a writer that is new, or was taken for gone) is read at
what was reached where it stands, and is neither lost nor in front of what was released.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

NEVER = -(2**62)
MOST = 1024
"""Writers of one partition; of more, those that are furthest behind are taken for gone."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the records of one partition up to some offset say. Rows point to theirs, so it never changes."""

    watermark_us: int = NEVER
    writers: Mapping[str, int] = field(default_factory=dict)

    def told(self, writer: str, time_us: int) -> "Progress":
        """The writer says that nothing of its own below `time_us` follows."""
        if self.writers.get(writer, NEVER) >= time_us:
            return self
        return self._with({**self.writers, writer: time_us})

    def gone(self, writer: str) -> "Progress":
        """The log says that a writer is no more; its next word makes it one again."""
        return self._with({name: time_us for name, time_us in self.writers.items() if name != writer})

    def laggards(self) -> list[str]:
        """Who is behind others, furthest first: what they have not passed holds everybody up."""
        newest = max(self.writers.values(), default=NEVER)
        behind = [(time_us, name) for name, time_us in self.writers.items() if time_us < newest]
        return [name for _, name in sorted(behind)]

    def _with(self, writers: dict[str, int]) -> "Progress":
        while len(writers) > MOST:
            writers.pop(min(writers, key=lambda name: (writers[name], name)))
        return Progress(max(self.watermark_us, min(writers.values(), default=NEVER)), writers)


NOTHING = Progress()
