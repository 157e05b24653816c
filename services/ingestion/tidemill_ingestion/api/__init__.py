"""HTTP in front of the raw topics, described as data."""

from pydantic import TypeAdapter

from tidemill_ingestion.api.events import Edge, get_event, get_status, post_events, post_flush, post_progress, timer
from tidemill_ingestion.api.models import (
    Accepted,
    AcceptedEvents,
    EventFate,
    Flushed,
    ProgressPosted,
    Status,
    TimersWritten,
)
from tidemill_ingestion.domain.requests import CLOUDEVENT, CLOUDEVENTS, JSON, NDJSON
from tidemill_runtime.http import Route

__all__ = ["Edge", "routes", "timer"]

MAXIMUM_BODY = 16 * 1024 * 1024


def routes() -> list[Route]:
    """The service's operations."""
    posted = TypeAdapter(Accepted | AcceptedEvents)
    return [
        Route(
            method="POST", path="/v1/events/{source}", endpoint=post_events, summary="Send events",
            description="One event or many, as JSON {id, time, data}, NDJSON or CloudEvents; all are taken or none.",
            response=posted, status=202, statuses=(400, 404, 413, 415, 422, 503), max_bytes=MAXIMUM_BODY,
            media=(JSON, NDJSON, CLOUDEVENT, CLOUDEVENTS),
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
        Route(method="GET", path="/v1/status", endpoint=get_status, summary="Counts and positions",
              response=Status, statuses=(503,)),
    ]  # fmt: skip
