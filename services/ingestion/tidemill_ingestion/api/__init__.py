"""HTTP in front of the raw topics, described as data."""

from pydantic import TypeAdapter

from tidemill_ingestion.api.dlq import Desk, list_letters, replay_letters, show_letter
from tidemill_ingestion.api.events import Edge, get_event, get_status, post_events, post_flush, post_progress
from tidemill_ingestion.api.models import (
    Accepted,
    AcceptedEvents,
    EventFate,
    EventsQuery,
    Flushed,
    LetterQuery,
    LettersFound,
    LetterShown,
    ProgressPosted,
    Replay,
    Replayed,
    Status,
    TimersWritten,
)
from tidemill_ingestion.api.quarantine import (
    QuarantinedWindow,
    QuarantineFound,
    QuarantineQuery,
    Release,
    Ward,
    list_quarantine,
    release_quarantine,
    show_quarantine,
)
from tidemill_ingestion.domain.requests import CLOUDEVENT, CLOUDEVENTS, JSON, NDJSON
from tidemill_runtime.http import Route

__all__ = ["Desk", "Edge", "Ward", "routes"]

MAXIMUM_BODY = 16 * 1024 * 1024


def routes() -> list[Route]:
    """The service's operations."""
    posted = TypeAdapter(Accepted | AcceptedEvents)
    return [
        Route(
            method="POST", path="/v1/events/{source}", endpoint=post_events, summary="Send events",
            description="One event or many, as JSON {id, time, data}, NDJSON or CloudEvents; all are taken or none.",
            response=posted, status=202, statuses=(400, 404, 413, 415, 422, 503), max_bytes=MAXIMUM_BODY,
            media=(JSON, NDJSON, CLOUDEVENT, CLOUDEVENTS), query=EventsQuery, metered=True,
        ),
        Route(
            method="GET", path="/v1/events/{source}/{id:path}", endpoint=get_event, summary="What became of an event",
            response=EventFate, statuses=(404, 503),
        ),
        Route(
            method="POST", path="/v1/sources/{source}/progress", endpoint=post_progress,
            summary="Declare that no older event will come", request=ProgressPosted,
            response=TimersWritten, status=202, statuses=(400, 404, 413, 415, 422, 503),
        ),
        Route(method="POST", path="/v1/archive/flush", endpoint=post_flush, summary="Bring the archives up to now",
              response=Flushed, statuses=(503,)),
        Route(method="GET", path="/v1/dlq", endpoint=list_letters, summary="List dead letters", query=LetterQuery,
              response=LettersFound, statuses=(404, 422, 503)),
        Route(method="GET", path="/v1/dlq/{topic}/{partition}/{offset}", endpoint=show_letter,
              summary="Show a dead letter", response=LetterShown, statuses=(404, 503)),
        Route(method="POST", path="/v1/dlq/replay", endpoint=replay_letters, summary="Put dead letters back",
              request=Replay, response=Replayed, statuses=(400, 404, 409, 413, 415, 422, 503)),
        Route(method="GET", path="/v1/quarantine", endpoint=list_quarantine, summary="List quarantined windows",
              query=QuarantineQuery, response=QuarantineFound, statuses=(422, 503)),
        Route(method="GET", path="/v1/quarantine/{id}", endpoint=show_quarantine, summary="Show a quarantined window",
              response=QuarantinedWindow, statuses=(404, 503)),
        Route(method="POST", path="/v1/quarantine/{id}/release", endpoint=release_quarantine,
              summary="Let a quarantined window train again", request=Release, response=QuarantinedWindow,
              statuses=(400, 404, 413, 415, 422, 503)),
        Route(method="GET", path="/v1/status", endpoint=get_status, summary="Counts and positions",
              response=Status, statuses=(503,)),
    ]  # fmt: skip
