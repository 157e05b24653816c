"""Quarantined windows over HTTP: list, show, release."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from tidemill_contracts import Envelope, derived_id, format_time, topic
from tidemill_contracts.events import encode
from tidemill_contracts.events.control import QuarantineReleased
from tidemill_ingestion.api.events import or_503
from tidemill_ingestion.api.models import Answers
from tidemill_ingestion.domain.stored import Quarantined
from tidemill_runtime.http import HttpProblem, read_model, read_query

_NAME_LENGTH = 36


class Windows(Protocol):
    """Quarantined windows; every method may raise Later."""

    async def quarantine(self, source: str | None, limit: int, *, released: bool) -> list[Quarantined]: ...
    async def quarantined(self, name: str) -> Quarantined | None: ...
    async def release(self, name: str, detail: str, topic: str, envelope: Envelope) -> bool: ...


@dataclass(frozen=True, slots=True)
class Ward:
    """What the endpoints work with; `told` is called after a release, which somebody must publish."""

    prefix: str
    windows: Windows
    told: Callable[[], None]


class QuarantineQuery(BaseModel):
    """Which windows to list; `all` includes those that were released."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    source: str | None = Field(default=None, max_length=64)
    all: bool = False
    limit: int = Field(default=50, ge=1, le=1000)


class QuarantinedWindow(Answers):
    """A window of one partition that broke a bound; `ranges` are its dense numbers, both ends inclusive."""

    id: str
    source: str
    partition: int
    field: str
    rule: str
    value: float
    bound: float
    rows: int
    window: tuple[str, str]
    ranges: list[tuple[int, int]]
    released: bool
    detail: str


class QuarantineFound(Answers):
    """Windows, newest first."""

    windows: list[QuarantinedWindow]


class Release(BaseModel):
    """Why a window may train again."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)

    detail: str = Field(default="", max_length=1000)


async def list_quarantine(request: Request) -> QuarantineFound:
    """Windows that broke a bound."""
    query = read_query(request, QuarantineQuery)
    found = await or_503(_ward(request).windows.quarantine(query.source, query.limit, released=query.all))
    return QuarantineFound(windows=[_shown(each) for each in found])


async def show_quarantine(request: Request) -> QuarantinedWindow:
    """One window."""
    return _shown(await _one(request))


async def release_quarantine(request: Request) -> QuarantinedWindow:
    """Let a window's rows train again, for every training that is asked for afterwards; twice is as good as once."""
    ward, found, asked = _ward(request), await _one(request), await read_model(request, Release)
    word = QuarantineReleased(
        quarantine_id=UUID(found.id), source=found.source, partition=found.partition, detail=asked.detail
    )
    envelope = encode(
        word, id=str(derived_id("quarantine released", found.id)), source="/services/ingestion",
        time_us=found.window_us[1], subject=found.source, causation=found.id,
    )  # fmt: skip
    if await or_503(ward.windows.release(found.id, asked.detail, topic("quality", prefix=ward.prefix), envelope)):
        ward.told()
    return _shown(await _one(request))


def _ward(request: Request) -> Ward:
    return cast("Ward", request.app.state.ward)


async def _one(request: Request) -> Quarantined:
    name = request.path_params["id"]
    try:
        known = str(UUID(name)) if len(name) == _NAME_LENGTH else None
    except ValueError:
        known = None
    found = None if known is None else await or_503(_ward(request).windows.quarantined(known))
    if found is None:
        raise HttpProblem(404, "there is no such quarantined window")
    return found


def _shown(window: Quarantined) -> QuarantinedWindow:
    start, end = window.window_us
    return QuarantinedWindow(
        id=window.id, source=window.source, partition=window.partition, field=window.field, rule=window.rule,
        value=window.value, bound=window.bound, rows=window.rows, window=(format_time(start), format_time(end)),
        ranges=window.ranges, released=window.is_released, detail=window.detail,
    )  # fmt: skip
