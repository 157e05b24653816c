"""A source, and records as a raw topic would hold them."""

from dataclasses import dataclass, field

from ingestion_stack import PIPELINE

from tidemill_contracts import Envelope, parse_time
from tidemill_contracts.events import Timer, encode
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_ingestion.domain.fields import Issue
from tidemill_ingestion.domain.source import Event, Source

NOON = parse_time("2013-01-01T12:00:00Z")
MINUTE = 60_000_000
HOUR = 60 * MINUTE


def sources() -> dict[str, Source]:
    """The sources of the test's pipeline."""
    spec = parse_pipeline(PIPELINE.encode())
    return {name: Source.compile(name, source, spec.partitions) for name, source in spec.sources.items()}


FLIGHTS, WEATHER = sources()["flights"], sources()["weather"]


@dataclass(frozen=True)
class Rec:
    """A record on a raw topic."""

    offset: int
    value: bytes | None = b""
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    key: bytes | None = None
    partition: int = 0
    timestamp: int = NOON // 1000
    topic: str = "tidemill.raw.flights.v1"


def tail_of(partition: int, number: int = 0) -> str:
    """A tail whose events belong to `partition`; another one for each `number`."""
    tails = (f"T{n}" for n in range(1000) if FLIGHTS.partition(f"T{n}".encode()) == partition)
    return [next(tails) for _ in range(number + 1)][-1]


def event(name: str = "e", *, time: str = "2013-01-01T11:00:00Z", delay: float = 1.0, partition: int = 0) -> Event:
    """A valid flight."""
    issues = list[Issue]()
    data = {"tail": tail_of(partition), "at": time, "delay": delay}
    found = FLIGHTS.event(name, None, data, FLIGHTS.context(), "", issues)
    assert found is not None, issues
    return found


def record(offset: int, about: Event, *, partition: int = 0) -> Rec:
    """The record of an event."""
    return Rec(offset, about.data, about.envelope().headers(), about.key, partition)


def timer(offset: int, time_us: int, *, source: str = "flights") -> Rec:
    """The record of a producer's word on progress."""
    envelope = encode(Timer(source=source, time_us=time_us), id=f"t{offset}", source="/t", time_us=time_us)
    return Rec(offset, envelope.data, envelope.headers())


def garbage(offset: int) -> Rec:
    """Bytes without a meaning."""
    return Rec(offset, b"\x00\xff garbage", [("x", b"\xff")], b"\x80")


def envelope(data: bytes, **changes: object) -> Envelope:
    """An envelope around a body that need not be valid."""
    fields = {"id": "e", "type": "test", "source": "/t", "time_us": NOON, "data": data} | changes
    return Envelope(**fields)  # type: ignore[arg-type]  # a test may break any of them
