"""Every operation once, without a network: a generator that yields requests and is given the JSON of their answers.

Both clients run these. An operation invents what ids are missing before its first request, so that a request which is
sent again has one effect.
"""

import json
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote
from uuid import uuid4

from tidemill.client import results as r
from tidemill.client.errors import RefusedError, TidemillError
from tidemill_contracts import format_time
from tidemill_contracts.events import DriftDetected, GateDecided, Released
from tidemill_contracts.pipeline import PipelineSpec, load_pipeline

BATCH = 1000
"""Events or instances in one request."""
EXPLAINED = 64
"""Instances in one request that asks for explanations."""
NOT_FOUND = 404
Json = Any
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """A request to a service. A body of bytes is sent as it is; an answer that is a table comes as bytes."""

    service: str
    method: str
    path: str
    body: object = None
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] | None = None
    deadline_ms: int | None = None


Steps = Generator[Call, Json, T]


def send_events(source: str, events: Iterable[Mapping[str, Any]]) -> Steps[list[r.Accepted]]:
    """Send events, each {"data": {...}} with optional "id" and "time"; returns where each stands, in order.

    All of a batch of a thousand are taken or none. An event without an id is given one.
    """
    accepted: list[r.Accepted] = []
    for batch in _batches([{"id": str(uuid4()), **event} for event in events]):
        answer = yield Call("ingestion", "POST", f"/v1/events/{part_of(source)}", batch)
        accepted += [r.Accepted.model_validate(item) for item in answer["accepted"]]
    return accepted


def progress(source: str, time: str | int, *, reason: str = "progress") -> Steps[list[r.Place]]:
    """Declare that no event older than `time` (RFC 3339 text or microseconds) will come from a source."""
    body = {"time": _instant(time), "reason": reason}
    answer = yield Call("ingestion", "POST", f"/v1/sources/{part_of(source)}/progress", body)
    return [r.Place.model_validate(item) for item in answer["timers"]]


def event(source: str, event_id: str) -> Steps[r.EventFate]:
    """What became of an event; RefusedError with status 404 while it waits to be processed."""
    return r.EventFate.model_validate(
        (yield Call("ingestion", "GET", f"/v1/events/{part_of(source)}/{quote(event_id)}"))
    )


def apply(pipeline: PipelineSpec | Path | str) -> Steps[r.Applied]:
    """Apply a pipeline, given as a specification or as the path of its file."""
    spec = pipeline if isinstance(pipeline, PipelineSpec) else load_pipeline(Path(pipeline))
    answer = yield Call("registry", "PUT", f"/v1/pipelines/{spec.name}", spec.model_dump(mode="json"))
    return r.Applied.model_validate(answer)


def pipelines() -> Steps[list[str]]:
    """Names of the pipelines that serving knows, sorted."""
    return sorted((yield Call("serving", "GET", "/v1/status"))["pipelines"])


def pipeline(name: str) -> Steps[r.Pipeline]:
    """A pipeline as it stands."""
    return r.Pipeline.model_validate((yield Call("registry", "GET", f"/v1/pipelines/{part_of(name)}")))


def predict(  # noqa: PLR0913 - what one instance may have, by name
    pipeline: str,
    inputs: Mapping[str, Any],
    *,
    id: str | None = None,  # noqa: A002 - the wire's own name
    time: str | int | None = None,
    features: Mapping[str, float | None] | None = None,
    explain: bool = False,
    deadline_ms: int | None = None,
) -> Steps[r.Prediction]:
    """Predict one instance from its request fields. The same `id` again gives the same answer.

    `features` stand in place of what is known of the entities; `explain` asks what each feature adds to the score.
    After `deadline_ms` DeadlineError: what fails before is sent again only while it lasts, and serving is told of it.
    """
    instance = _instance(inputs, id, time) | ({"features": dict(features)} if features else {})
    return (yield from predict_many(pipeline, [instance], explain=explain, deadline_ms=deadline_ms))[0]


def predict_many(
    pipeline: str, instances: Sequence[Mapping[str, Any]], *, explain: bool = False, deadline_ms: int | None = None
) -> Steps[list[r.Prediction]]:  # fmt: skip
    """Predict many, each {"inputs": {...}} with optional "id", "time" and "features"; answers in their order.

    `deadline_ms` is that of each request, of a thousand instances at most.
    """
    answers: list[r.Prediction] = []
    path, params = f"/v1/predict/{part_of(pipeline)}", {"explain": "true"} if explain else None
    every = [{"id": str(uuid4()), **instance} for instance in instances]
    for batch in _batches(every, EXPLAINED if explain else BATCH):
        answer = yield Call("serving", "POST", path, {"instances": batch}, params, deadline_ms=deadline_ms)
        answers += [r.Prediction.model_validate(item) for item in answer["predictions"]]
    return answers


def champion(pipeline: str, *, at: str | int | None = None) -> Steps[Released]:
    """The release that answers, or that answered at an event time."""
    params = None if at is None else {"at": _instant(at)}
    return event_of(
        Released, (yield Call("registry", "GET", f"/v1/pipelines/{part_of(pipeline)}/champion", params=params))
    )


def releases(pipeline: str) -> Steps[list[Released]]:
    """Releases by epoch."""
    answer = yield Call("registry", "GET", f"/v1/pipelines/{part_of(pipeline)}/releases")
    return [event_of(Released, item) for item in answer["releases"]]


def versions(pipeline: str) -> Steps[list[r.Version]]:
    """Registered versions, oldest first."""
    answer = yield Call("registry", "GET", f"/v1/pipelines/{part_of(pipeline)}/versions")
    return [r.Version.model_validate(item) for item in answer["items"]]


def gates(pipeline: str) -> Steps[list[GateDecided]]:
    """Verdicts of the gate, oldest first."""
    answer = yield Call("registry", "GET", f"/v1/pipelines/{part_of(pipeline)}/gates")
    return [event_of(GateDecided, item) for item in answer["items"]]


def runs(pipeline: str | None = None) -> Steps[list[r.Run]]:
    """Training runs, newest first; of one pipeline or of all."""
    answer = yield Call("trainer", "GET", "/v1/runs")
    found = [r.Run.model_validate(item) for item in answer["runs"]]
    return [run for run in found if pipeline in {None, run.pipeline}]


def is_known(pipeline: PipelineSpec) -> Steps[bool]:
    """Whether the services that are sent events and requests have taken up a pipeline's name and sources."""
    sources = (yield from status("ingestion"))["sources"]
    served = (yield from status("serving"))["pipelines"]
    return pipeline.name in served and all(name in sources for name in pipeline.sources)


def are_applied(source: str, accepted: Sequence[r.Accepted]) -> Steps[bool]:
    """Whether ingestion has decided on all of these events: they are then on the stream, or told why not."""
    known = (yield from status("ingestion"))["sources"].get(source, {}).get("raw_positions", {})
    return all(known.get(str(place.partition), 0) > place.offset for place in accepted)


def freeze(pipeline: str, *, frozen: bool = True) -> Steps[bool]:
    """Stop (or resume) automatic releases; returns what holds now."""
    path = f"/v1/pipelines/{part_of(pipeline)}/freeze"
    return bool((yield Call("registry", "POST", path, {"frozen": frozen}))["frozen"])


def drifts(pipeline: str) -> Steps[list[r.Drift]]:
    """Alarms, newest first."""
    answer = yield Call("monitoring", "GET", f"/v1/pipelines/{part_of(pipeline)}/drifts")
    return [r.Drift(event_id=item["event_id"], drift=event_of(DriftDetected, item)) for item in answer["items"]]


def metrics(pipeline: str) -> Steps[list[r.Metric]]:
    """Prequential sums by pane and segment, oldest first."""
    answer = yield Call("monitoring", "GET", f"/v1/pipelines/{part_of(pipeline)}/metrics")
    return [r.Metric.model_validate(item) for item in answer["items"]]


def shadow_figures(pipeline: str) -> Steps[list[r.ShadowFigures]]:
    """How every shadow does against the answers, by name and by the version that answered."""
    answer = yield Call("monitoring", "GET", f"/v1/pipelines/{part_of(pipeline)}/shadows")
    return [r.ShadowFigures.model_validate(item) for item in answer["items"]]


def audit_verify() -> Steps[r.Audit]:
    """Whether the hash chain over all decisions holds."""
    return r.Audit.model_validate((yield Call("registry", "GET", "/v1/audit/verify")))


def status(
    service: Literal["ingestion", "features", "trainer", "monitoring", "serving"],
) -> Steps[dict[str, Any]]:
    """Where a service stands, as it says it."""
    answer: dict[str, Any] = yield Call(service, "GET", "/v1/runs" if service == "trainer" else "/v1/status")
    return answer


def or_none(steps: Steps[T]) -> Steps[T | None]:
    """The result of an operation, or None where the service has nothing of that name (404)."""
    try:
        return (yield from steps)
    except RefusedError as error:
        if error.status != NOT_FOUND:
            raise
        return None


def read_json(service: str, path: str) -> Steps[dict[str, Any]]:
    """The answer to a plain read."""
    answer: dict[str, Any] = yield Call(service, "GET", path)
    return answer


def spec_of(name: str) -> Steps[PipelineSpec]:
    """The file of a pipeline."""
    return PipelineSpec.of((yield from pipeline(name)).spec)


def time_of(name: str, at: str | int | None) -> Steps[str]:
    """The event time of a decision: as given, else where the features of the pipeline stand."""
    if at is not None:
        return _instant(at)
    status = (yield Call("serving", "GET", "/v1/status"))["pipelines"].get(name)
    return now_or(None, None if status is None else status["watermark_us"])


def now_or(at: str | int | None, watermark_us: int | None) -> str:
    """An event time as given, else where the watermark stands; raises TidemillError when that is not known."""
    if at is not None:
        return _instant(at)
    if watermark_us is None or watermark_us < 0:
        raise TidemillError("no event has said yet what time it is in this pipeline: give the event time (at)")
    return format_time(watermark_us)


def _instance(inputs: Mapping[str, Any], identity: str | None, time: str | int | None) -> dict[str, Any]:
    named = {} if identity is None else {"id": identity}
    return {**named, **({} if time is None else {"time": _instant(time)}), "inputs": dict(inputs)}


def _instant(time: str | int) -> str:
    return format_time(time) if isinstance(time, int) else time


E_ = TypeVar("E_", Released, GateDecided, DriftDetected)


def event_of(kind: type[E_], item: Mapping[str, Any]) -> E_:
    return kind.read(json.dumps(item).encode())


def _batches(items: Sequence[T], size: int = BATCH) -> Iterable[Sequence[T]]:
    return (items[first : first + size] for first in range(0, len(items), size))


def part_of(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")
