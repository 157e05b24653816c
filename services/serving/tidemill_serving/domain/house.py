"""What requests and background work share: the desks, the replica, and whether Kafka is there."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.frames import Logged
from tidemill_serving.domain.imported import Catalogue
from tidemill_serving.domain.replica import Replica
from tidemill_serving.domain.statistics import Statistics


class Log(Protocol):
    """Where records are safe before answers leave."""

    def append(self, entries: Sequence[Logged]) -> int:
        """All of them or none; raises LogRefusedError."""


@dataclass(slots=True)
class Counts:
    """Since the process began, for metrics."""

    batches: int = 0
    rows: int = 0
    log_refused: int = 0
    bad_records: int = 0
    refused_releases: int = 0
    pauses: int = 0


@dataclass(slots=True)
class BulkCounts:
    """Of one pipeline's requests over Kafka, since the process began; `is_held`: they wait for what they need."""

    instances: int = 0
    letters: int = 0
    is_held: bool = False


@dataclass(slots=True, eq=False)
class House:
    """One event loop owns it. `degraded`: what is answered may be behind what Kafka holds."""

    desks: dict[str, Desk] = field(default_factory=dict)
    replica: Replica = field(default_factory=Replica)
    degraded: bool = False
    counts: Counts = field(default_factory=Counts)
    bulk: dict[str, BulkCounts] = field(default_factory=dict)
    catalogue: Catalogue = field(default_factory=Catalogue)
    statistics: Statistics = field(default_factory=Statistics)
