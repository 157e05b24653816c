"""Which release answers: only a higher epoch ever applies, and a staged one when event time has come to it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from tidemill_contracts.events import Released
from tidemill_contracts.pipeline import PipelineSpec

Order = tuple[int, int]
"""Epoch, and the count of weight changes within it."""


class Swap(NamedTuple):
    """When a release came to answer."""

    epoch: int
    at_watermark_us: int | None


class Cause(NamedTuple):
    """The event that brought a release: what its swap report names, and the trace it goes on in.

    `released` is the context of that event, `traceparent` what came of it last: the taking, then the swap.
    """

    event_id: str | None = None
    correlation: str | None = None
    traceparent: str | None = None
    released: str | None = None


class KeptRelease(NamedTuple):
    """A release and the pipeline file that it was planned under."""

    released: Released
    spec: PipelineSpec


KEPT, SWAPS = 3, 1000
"""Releases that are kept on disk for a start without anything else, and swaps that are remembered."""


def digests_of(released: Released) -> set[str]:
    """Of every model in a release."""
    challenger = [] if released.challenger is None else [released.challenger]
    return {member.model for member in (*released.members, *released.shadows, *challenger)}


class Kept(NamedTuple):
    """What is kept of a pipeline on disk; `releases` are the last that answered, the newest first."""

    spec: PipelineSpec
    releases: list[KeptRelease]
    swaps: list[Swap]


class Staged(Protocol):
    """What must be known of a loaded release."""

    @property
    def order(self) -> Order: ...

    @property
    def effective_at_us(self) -> int | None: ...

    @property
    def previous_epoch(self) -> int: ...


R = TypeVar("R", bound=Staged)


@dataclass(slots=True)
class Champion(Generic[R]):
    """The releases of one pipeline: the one that answers, the one before it, and those that wait for their time."""

    active: R | None = None
    previous: R | None = None
    staged: list[R] = field(default_factory=list)
    highest: Order = (0, 0)

    def is_news(self, order: Order) -> bool:
        """Whether a release of this order may still come into effect."""
        return order > self.highest

    def stage(self, release: R) -> bool:
        """Take a loaded release to wait for its time; false for one that is not above all before it."""
        if not self.is_news(release.order):
            return False
        self.highest = release.order
        self.staged.append(release)
        return True

    def restore(self, active: R, previous: R | None) -> None:
        """Begin with what was active when the process ended."""
        self.active, self.previous, self.highest = active, previous, max(self.highest, active.order)

    def advance(self, watermark_us: int | None, is_ready: Callable[[R], bool] = lambda _: True) -> R | None:
        """Activate the highest release whose time has come, by one pointer write; lower ones can then never apply.

        `is_ready` tells whether what a release reads is there.
        """
        due = [release for release in self.staged if self._is_due(release, watermark_us) and is_ready(release)]
        if not due:
            return None
        release = max(due, key=lambda found: found.order)
        self.staged = [found for found in self.staged if found.order > release.order]
        self.previous, self.active = self.active, release
        return release

    def _is_due(self, release: R, watermark_us: int | None) -> bool:
        if release.effective_at_us is None:
            return True
        if self.active is None and release.previous_epoch > 0:
            # Its predecessor is gone (this machine lost its disk, the topic was compacted): a release answers better
            # than nothing does.
            return True
        return watermark_us is not None and watermark_us >= release.effective_at_us
