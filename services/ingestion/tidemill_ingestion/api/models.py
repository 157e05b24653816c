"""Bodies of the HTTP edge."""

from pydantic import BaseModel, ConfigDict


class Answers(BaseModel):
    """What an answer may hold, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(Answers):
    """Where a record stands on the raw topic."""

    topic: str
    partition: int
    offset: int


class Accepted(Place):
    """The broker has this event."""

    id: str


class AcceptedEvents(Answers):
    """The broker has these events, in the order of the request."""

    accepted: list[Accepted]


class ProgressPosted(BaseModel):
    """A producer's word that no event older than `time` will come."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    time: str
    reason: str = "progress"


class TimersWritten(Answers):
    """The records that carry the word, one per partition."""

    timers: list[Place]


class RawPlace(Answers):
    """The raw record that decided what became of an id."""

    partition: int
    offset: int


class EventFate(Answers):
    """What became of an event; `seq` is its dense number on its partition of `topic`, where it was applied."""

    id: str
    outcome: str
    topic: str
    partition: int
    seq: int | None
    time: str
    raw: RawPlace
    conflicts: int


class SourceStatus(Answers):
    """Counts from durable rows: accepted = applied + late + future + dead_lettered, all of them distinct ids.

    duplicates, conflicts, refused and timers count records; records is the sum of all of them and of the first three.
    """

    accepted: int = 0
    applied: int = 0
    late: int = 0
    future: int = 0
    dead_lettered: int = 0
    duplicates: int = 0
    conflicts: int = 0
    refused: int = 0
    timers: int = 0
    records: int = 0
    positions: dict[str, int] = {}
    raw_positions: dict[str, int] = {}
    watermarks_us: dict[str, int | None] = {}
    newest_us: dict[str, int | None] = {}


class Flushed(Answers):
    """Source to partition to the dense number below which every event is in the archive."""

    sources: dict[str, dict[str, int]]


class Status(Answers):
    """All sources of all pipelines."""

    sources: dict[str, SourceStatus]
