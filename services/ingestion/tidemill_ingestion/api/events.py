"""The endpoints: strict bodies in, 202 once the broker has the events."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, TypeVar, cast

from starlette.requests import Request
from starlette.responses import Response

from tidemill_contracts import dead_letters, format_time, topic
from tidemill_contracts.events import Timer
from tidemill_contracts.topics import Family
from tidemill_ingestion.api.models import (
    EventFate,
    EventsQuery,
    Flushed,
    Place,
    ProgressPosted,
    RawPlace,
    SourceStatus,
    Status,
    TimersWritten,
)
from tidemill_ingestion.domain.decide import Counts, Known
from tidemill_ingestion.domain.fields import Issue, instant, issue_of
from tidemill_ingestion.domain.outgoing import Framed, Outgoing, Sendable
from tidemill_ingestion.domain.recent import RecentEvents
from tidemill_ingestion.domain.requests import (
    InvalidEventsError,
    MediaTypeError,
    Parcel,
    Posted,
    as_json,
    conflict,
    read_request,
)
from tidemill_ingestion.domain.source import Source, timer_issue
from tidemill_ingestion.domain.stored import EventRow, PartitionRow
from tidemill_ingestion.domain.timers import timer
from tidemill_runtime.errors import Later
from tidemill_runtime.http import FieldError, HttpProblem, caller_of, media_type, read_body, read_model, read_query
from tidemill_runtime.telemetry import producing

MAXIMUM_BATCH = 10_000
RETRY_AFTER_S = "1"
FLUSH_TIMEOUT_S = 25.0
FLUSHED: tuple[Family, Family] = ("events", "late")
_FATES: dict[str, Family] = {"applied": "events", "late": "late", "future": "future"}
T = TypeVar("T")


class Rows(Protocol):
    """What the API reads of the store; every method may raise Later."""

    async def event(self, source: str, event_id: str) -> EventRow | None: ...
    async def status(self) -> list[PartitionRow]: ...


class KnownIds(Protocol):
    """Looks ids up as well as that is possible at the moment: without the database nothing is known."""

    async def known(self, source: str, ids: Sequence[str]) -> Mapping[str, Known]: ...


class Sink(Protocol):
    """Writes records and returns once the broker has all of them; raises Later."""

    async def write(self, records: Sequence[Sendable]) -> list[tuple[int, int]]: ...


class Flushable(Protocol):
    """The archive of a source."""

    async def flush_to(self, ends: Mapping[str, int], *, timeout_s: float) -> dict[str, int]: ...


@dataclass(slots=True)
class Edge:
    """What the endpoints work with; the composition root keeps `sources` up to date."""

    prefix: str
    known: KnownIds
    sink: Sink
    rows: Rows
    ends: Callable[[str], Awaitable[Mapping[int, int]]]
    sources: dict[str, Source] = field(default_factory=dict)
    archives: Mapping[str, Flushable] = field(default_factory=dict)
    recent: RecentEvents = field(default_factory=RecentEvents)


async def post_events(request: Request) -> Response:
    """Validate everything, then write everything; 202 after the acknowledgement of every event."""
    edge, source = _edge(request), _source(request)
    word = read_query(request, EventsQuery).progress if request.url.query else None
    progress_us = None if word is None else _progress(source, word, "progress")
    posted = _read(request, source, await _body(request))
    caller_of(request).charge(len(posted.events) - 1)
    await _refuse_conflicts(edge, source, posted)
    name = topic("raw", source.name, prefix=edge.prefix)
    with producing(name) as trace:
        records = list[Sendable]()
        for event in (posted_event.traced(trace) for posted_event in posted.events):
            body, partition = event.body(), source.partition(event.key)
            edge.recent.add(source, event, body, partition)
            records.append(Framed(name, partition, len(event.key), body.data))
        if progress_us is not None:
            records += _timers(source, name, progress_us, "progress", trace)
        places = await or_503(edge.sink.write(records))
    accepted = [
        {"id": event.id, "topic": name, "partition": partition, "offset": offset}
        for event, (partition, offset) in zip(posted.events, places, strict=False)
    ]
    answer: dict[str, object] = accepted[0] if posted.single else {"accepted": accepted}
    if progress_us is not None:
        answer["timers"] = [{"topic": name, "partition": p, "offset": o} for p, o in places[len(accepted) :]]
    return Response(as_json(answer), 202, media_type="application/json")


async def post_progress(request: Request) -> TimersWritten:
    """Write a timer to every raw partition, so that the word stands in the log in its order."""
    edge, source = _edge(request), _source(request)
    posted = await read_model(request, ProgressPosted)
    time_us = _progress(source, posted.time, "time")
    name = topic("raw", source.name, prefix=edge.prefix)
    with producing(name) as trace:
        places = await or_503(edge.sink.write(_timers(source, name, time_us, posted.reason, trace)))
    return TimersWritten(timers=[Place(topic=name, partition=p, offset=o) for p, o in places])


def _progress(source: Source, text: str, field: str) -> int:
    """The declared time in microseconds; raises HttpProblem 422 where it is none, or in the future."""
    try:
        time_us = instant(text)
    except ValueError as error:
        raise _refused([issue_of(field, error)]) from None
    issue = timer_issue(time_us, time.time_ns() // 1000, source.spec)
    if issue is not None:
        raise _refused([replace(issue, field=field)])
    return time_us


def _timers(source: Source, name: str, time_us: int, reason: str, trace: str | None) -> list[Outgoing]:
    word = Timer(source=source.name, time_us=time_us, reason=reason)
    return [timer(word, partition, name, trace=trace) for partition in range(source.partitions)]


async def get_event(request: Request) -> EventFate:
    """The stored fate of an id; 404 also while its record waits to be processed."""
    edge, source = _edge(request), _source(request)
    event_id = request.path_params["id"]
    row = await or_503(edge.rows.event(source.name, event_id)) if "\x00" not in event_id else None
    if row is None:
        raise HttpProblem(404, "no event of this id has been processed")
    raw = topic("raw", source.name, prefix=edge.prefix)
    family = _FATES.get(row.outcome)
    name = dead_letters(raw) if family is None else topic(family, source.name, prefix=edge.prefix)
    return EventFate(
        id=event_id, outcome=row.outcome, topic=name, partition=row.partition if row.outcome == "applied" else 0,
        seq=row.seq, time=format_time(row.event_us), conflicts=row.conflicts,
        raw=RawPlace(partition=row.partition, offset=row.raw_offset),
    )  # fmt: skip


async def post_flush(request: Request) -> Flushed:
    """Wait until everything that is on the events topics now is in the archives."""
    edge = _edge(request)
    return Flushed(sources={name: await or_503(_flush(edge, name)) for name in sorted(edge.archives)})


async def _flush(edge: Edge, source: str) -> dict[str, int]:
    applied, late = (topic(family, source, prefix=edge.prefix) for family in FLUSHED)
    ends = {f"events/{p}": end for p, end in (await edge.ends(applied)).items()}
    found = await edge.archives[source].flush_to(
        ends | {f"late/{p}": end for p, end in (await edge.ends(late)).items()}, timeout_s=FLUSH_TIMEOUT_S
    )
    return {name.split("/")[1]: found.get(f"{name}/seq", -1) + 1 for name in ends}


async def get_status(request: Request) -> Status:
    """Counts and positions of every source, from the rows that hold the operator's decisions."""
    edge = _edge(request)
    found: dict[str, list[PartitionRow]] = {name: [] for name in edge.sources}
    for row in await or_503(edge.rows.status()):
        found.setdefault(row.source, []).append(row)
    return Status(sources={name: _summed(rows) for name, rows in sorted(found.items())})


def _summed(rows: Sequence[PartitionRow]) -> SourceStatus:
    total = {f.name: sum(getattr(row.counts, f.name) for row in rows) for f in fields(Counts)}
    accepted = total["applied"] + total["late"] + total["future"] + total["dead_lettered"]
    return SourceStatus(
        accepted=accepted, **total,
        positions={str(row.partition): row.position.seq for row in rows},
        raw_positions={str(row.partition): row.position.next for row in rows},
        watermarks_us={str(row.partition): row.position.watermark_us for row in rows},
        newest_us={str(row.partition): row.position.newest_us for row in rows},
    )  # fmt: skip


def _edge(request: Request) -> Edge:
    return cast("Edge", request.app.state.edge)


def _source(request: Request) -> Source:
    source = _edge(request).sources.get(request.path_params["source"])
    if source is None:
        raise HttpProblem(404, "no pipeline declares this source")
    return source


async def _body(request: Request) -> bytes:
    if "ce-specversion" in request.headers and "content-type" not in request.headers:
        # A binary CloudEvent without datacontenttype is JSON, and the public SDK then sends no content type.
        request.scope["tidemill.route"] = replace(request.scope["tidemill.route"], media=())
    return await read_body(request)


def _read(request: Request, source: Source, body: bytes) -> Posted:
    headers = dict(request.headers)
    _, _, charset = headers.get("content-type", "").partition("charset=")
    if charset.strip(' "').lower() not in {"", "utf-8", "us-ascii"}:
        raise HttpProblem(415, "the body must be UTF-8")
    try:
        return read_request(source, Parcel(media_type(request), headers, body, MAXIMUM_BATCH))
    except MediaTypeError as error:
        raise HttpProblem(415, f"the body must be {error}") from None
    except InvalidEventsError as error:
        raise _refused(error.issues) from None


def _refused(issues: Sequence[Issue]) -> HttpProblem:
    """400 where the body is not JSON at all, else 422; nothing was written."""
    whole = len(issues) == 1 and not issues[0].field and issues[0].rule in {"json", "duplicate_key", "finite", "depth"}
    errors = [FieldError(field=issue.field, rule=issue.rule, message=issue.message) for issue in issues]
    return HttpProblem(400 if whole else 422, "nothing was taken: see errors", errors=errors)


async def _refuse_conflicts(edge: Edge, source: Source, posted: Posted) -> None:
    known = await edge.known.known(source.name, [event.id for event in posted.events])
    issues = []
    for index, event in enumerate(posted.events):
        stored = known.get(event.id)
        if stored is not None and stored.outcome != "dead_lettered" and stored.digest != event.digest:
            issues.append(conflict("id" if posted.single else f"{index}.id"))
    if issues:
        raise _refused(issues)


async def or_503(work: Awaitable[T]) -> T:
    """What `work` gives; raises HttpProblem 503 where it says Later."""
    try:
        return await work
    except Later as error:
        raise HttpProblem(503, str(error), headers={"retry-after": RETRY_AFTER_S}) from None
