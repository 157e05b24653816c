"""What the tasks need of the outside, no more."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from tidemill_features.domain.cold import Found, Rows, Wanted
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.marks import Capture, Marks, Told
from tidemill_features.domain.route import RouteMarks
from tidemill_features.domain.segments import Owner
from tidemill_features.domain.taken import Rejected
from tidemill_features.domain.views import View


class Log(Protocol):
    """Somewhere to write records in order; what it has written may be written again."""

    async def write(self, letters: Sequence[Letter]) -> None:
        """Returns when all are acknowledged; raises Later, or Fenced where a successor writes now."""


class FencedLog(Log, Protocol):
    """A log with one writer at a time."""

    async def open(self) -> None:
        """Shut out whoever wrote before."""

    async def told(self, topics: Sequence[str]) -> Mapping[str, Told]:
        """By topic how far its readers were told, without those that were told nothing; once it is open."""

    async def close(self) -> None:
        """Let go."""


class Checkpoints(Protocol):
    """Where state survives."""

    async def own(self, partition: int) -> Owner:
        """Take over: whoever stored this partition number before is fenced."""

    async def load(self, owner: Owner, view: View) -> tuple[Marks, list[tuple[bytes, bytes | None]]]:
        """What was stored last."""

    async def save(self, owner: Owner, captures: Sequence[tuple[View, Capture]]) -> None:
        """All of it in one transaction; after Later the same again. Raises Fenced."""

    async def cold(self, owner: Owner, view: View) -> Rows:
        """What is stored of cold keys."""

    async def fetch(self, view: View, partition: int, wanted: Wanted) -> Found:
        """Rows of cold keys; of due ones maybe a part. Raises Later."""


class Routes(Protocol):
    """Where the router's marks survive."""

    async def load_route(self, view: View, partition: int) -> RouteMarks:
        """How far a source partition was routed."""

    async def save_routes(self, partition: int, marks: Sequence[tuple[View, RouteMarks]]) -> None:
        """Forward, never back."""


class Undertaker(Protocol):
    """Turns records that can never be processed into dead letters."""

    def bury(self, rejected: Sequence[Rejected], *, among: int) -> list[Letter]:
        """The letters of one poll with `among` records; raises Stalled when there are too many."""
