"""What the store remembers between batches, as plain values."""

from dataclasses import dataclass

from tidemill_ingestion.domain.decide import Counts, Position


class ClaimedMeanwhile(Exception):  # noqa: N818 - the caller looks again, nothing failed
    """Another partition has claimed one of the batch's ids since they were looked up."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A partition's stored state; records from `emitted` up to `position.next` are decided but perhaps not written."""

    position: Position
    emitted: int


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A window of a partition that broke a bound; `ranges` are its dense numbers, both ends inclusive."""

    id: str
    source: str
    partition: int
    field: str
    rule: str
    value: float
    bound: float
    rows: int
    window_us: tuple[int, int]
    ranges: list[tuple[int, int]]
    is_released: bool
    detail: str


@dataclass(frozen=True, slots=True)
class PartitionRow:
    """A partition as `/v1/status` shows it."""

    source: str
    partition: int
    position: Position
    counts: Counts


@dataclass(frozen=True, slots=True)
class EventRow:
    """What became of an id."""

    outcome: str
    partition: int
    raw_offset: int
    seq: int | None
    event_us: int
    conflicts: int
