"""How far a partition of a view is: what is stored of it, and what its readers were told."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from tidemill_features.domain.cold import Chilled
from tidemill_features.domain.views import View


class Marks(msgspec.Struct, frozen=True):
    """How far a partition is: next offset of its input; by source partition the highest sequence number and time.

    `input` is the topic of the offset; what was stored before it was noted is of the source's own topic, or of one
    that is no longer read.
    """

    next_offset: int = 0
    seqs: dict[int, int] = {}
    watermarks: dict[int, int] = {}
    watermark_us: int | None = None
    input: str = ""

    def offset_in(self, view: View) -> int:
        """Where reading the view's input goes on: from the beginning where that is another topic, repeats are known."""
        known = self.input or view.source_topic
        return self.next_offset if known == view.input_topic else 0


class Capture(NamedTuple):
    """What a checkpoint stores: changed keys (None: forgotten, or cold from now on), marks, rows of cold keys."""

    entries: list[tuple[bytes, bytes | None]]
    marks: Marks
    cold: Chilled = Chilled()


class Told(NamedTuple):
    """How far a partition was when its readers were told last: its watermark, and the positions told with it."""

    watermark_us: int
    positions: Mapping[int, int]
