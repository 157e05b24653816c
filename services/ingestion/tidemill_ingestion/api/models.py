"""Bodies of the HTTP edge."""

from pydantic import BaseModel, ConfigDict, Field


class Answers(BaseModel):
    """What an answer may hold, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Place(Answers):
    """Where a record stands on the raw topic."""

    topic: str
    partition: int
    offset: int


class Accepted(Place):
    """The broker has this event, and the timers where the request declared progress."""

    id: str
    timers: list[Place] | None = None


class AcceptedEvents(Answers):
    """The broker has these events, in the order of the request, and the timers where it declared progress."""

    accepted: list[Accepted]
    timers: list[Place] | None = None


class EventsQuery(BaseModel):
    """`progress`: after these events none older than this time will come, as if it were posted behind them."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    progress: str | None = Field(default=None, max_length=64)


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


class LetterQuery(BaseModel):
    """Which dead letters to list; `topic` is a topic or its dead-letter topic."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    topic: str | None = Field(default=None, max_length=249)
    limit: int = Field(default=50, ge=1, le=1000)


class LetterSummary(Answers):
    """A dead letter: where it lies, where it was, why it could not be processed."""

    topic: str
    partition: int
    offset: int
    origin_topic: str
    origin_partition: int | None
    origin_offset: int | None
    group: str
    reason: str
    error: str
    attempts: int | None
    replays: int
    at: str | None
    bytes: int


class LetterShown(LetterSummary):
    """A dead letter with its bytes; headers that are not text are shown as far as they are."""

    headers: dict[str, str]
    key_base64: str | None
    value_base64: str | None


class LettersFound(Answers):
    """Dead letters in the order of their topic."""

    letters: list[LetterSummary]


class Replay(BaseModel):
    """What to put back: one letter by its place, or the newest `limit` that were not put back yet."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    topic: str = Field(max_length=249)
    partition: int | None = Field(default=None, ge=0, lt=2**31)
    offset: int | None = Field(default=None, ge=0, lt=2**63)
    limit: int = Field(default=100, ge=1, le=1000)
    force: bool = False


class ReplayedLetter(Answers):
    """A letter and where its record stands now."""

    partition: int
    offset: int
    to_topic: str
    to_partition: int
    to_offset: int


class Replayed(Answers):
    """What was put back; `skipped` had been before, or do not hold their record's bytes."""

    replayed: list[ReplayedLetter]
    skipped: int
