"""What this instance holds, over HTTP: progress by view and partition, and the vector of one entity."""

from typing import Protocol

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tidemill_contracts.events import FeatureVector
from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.letter import Letter
from tidemill_runtime.errors import Later
from tidemill_runtime.http import HttpProblem, Route, json_response


class PartitionStatus(BaseModel):
    """One partition of one view, on the instance that owns it."""

    partition: int
    watermark_us: int | None
    positions: dict[str, int]
    keys: int
    cold_keys: int
    emitted: int
    skipped: int
    repeats: int
    too_late: int
    state_bytes: int


class ViewStatus(BaseModel):
    """One version of a view with the partitions that this instance owns; `kept` for a release of an earlier file."""

    view: str
    version: str
    pipeline: str
    kept: bool = False
    partitions: list[PartitionStatus]


class Status(BaseModel):
    """Everything that this instance runs, and what it refuses to run with the reason, by `pipeline/view`."""

    views: list[ViewStatus]
    refused: dict[str, str]


class Holdings(Protocol):
    """What the running tasks of this instance hold."""

    @property
    def refused(self) -> dict[str, str]:
        """Views that are not run."""

    def parts(self) -> list[ViewPartition]:
        """View partitions owned now."""

    async def current(self, part: ViewPartition, entity: bytes) -> Letter | None:
        """The entity's vector in one of them; raises Later when that cannot be said now."""


async def status(request: Request) -> Status:
    """Progress of every view partition that this instance owns."""
    holdings: Holdings = request.app.state.holdings
    views: dict[str, ViewStatus] = {}
    for part in sorted(holdings.parts(), key=lambda item: (item.view.owner, item.partition)):
        view = part.view
        known = views.setdefault(
            view.owner,
            ViewStatus(view=view.name, version=view.version, pipeline=view.pipeline, kept=view.is_kept, partitions=[]),
        )
        known.partitions.append(_partition(part))
    return Status(views=list(views.values()), refused=dict(holdings.refused))


def _partition(part: ViewPartition) -> PartitionStatus:
    return PartitionStatus(
        partition=part.partition, watermark_us=part.watermark_us,
        positions={str(source): seq for source, seq in sorted(part.applied.items())},
        keys=len(part.state) + len(part.cold), cold_keys=len(part.cold),
        emitted=part.emitted, skipped=part.skipped, repeats=part.repeats, too_late=part.state.too_late,
        state_bytes=part.state.memory_bytes,
    )  # fmt: skip


async def vector(request: Request) -> Response:
    """The entity's vector as it would be written now: of the version asked for, else of the pipeline file's."""
    holdings: Holdings = request.app.state.holdings
    entity = request.path_params["entity"].encode("utf-8", "surrogateescape")
    version = request.query_params.get("version")
    parts = [part for part in holdings.parts() if part.view.name == request.path_params["view"]]
    parts = [part for part in parts if version == part.view.version or (version is None and not part.view.is_kept)]
    if not parts:
        raise HttpProblem(404, "this instance does not run a view of that name and version")
    for part in parts:
        try:
            found = await holdings.current(part, entity)
        except Later as error:
            raise HttpProblem(503, "the store of entities that are seldom used does not answer") from error
        if found is not None and found.value is not None:
            return json_response(FeatureVector.read(found.value))
    owned = ", ".join(str(part.partition) for part in parts)
    raise HttpProblem(404, f"the entity is in none of the partitions that this instance owns ({owned})")


ROUTES = (
    Route(
        method="GET", path="/v1/status", endpoint=status, response=Status,
        summary="Watermark, positions and counts of every view partition here",
    ),
    Route(
        method="GET", path="/v1/features/{view}/{entity:path}", endpoint=vector, response=FeatureVector,
        statuses=(404, 503), summary="The current vector of one entity",
        description="`entity` is the key's text; for a key of several fields the JSON array of their texts. "
        "`?version=` asks for a version that a release of an earlier file reads.",
    ),
)  # fmt: skip
