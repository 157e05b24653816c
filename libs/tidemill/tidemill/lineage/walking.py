"""The walk itself: prediction record, release, model, run, request and cause; views and label down to source events."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol, TypeVar

from tidemill.client import calls
from tidemill.client.calls import Call, Steps
from tidemill.client.errors import TidemillError
from tidemill.client.transport import AsyncTransport
from tidemill.ledger.topics import read_topic
from tidemill.lineage.resolve import SourceEvent, Wanted, resolve
from tidemill.lineage.steps import Lineage, Step
from tidemill_contracts import format_time, topic
from tidemill_contracts.events import Prediction, Released, TrainingManifest, ViewRevision
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import RuntimeFailure

T = TypeVar("T")
_SHORT = 12


class Asks(Protocol):
    """The client, as much of it as a walk needs; that the client itself can walk is no reason to know it here."""

    transport: AsyncTransport

    async def run(self, steps: Steps[T]) -> T:
        """The result of an operation."""


async def walk(client: Asks, prediction_id: str) -> Lineage:
    """The lineage of a prediction.

    Raises:
        TidemillError: there is no such prediction, or something that the walk needs cannot be reached.
    """
    places = client.transport.endpoints
    outcome = await client.run(calls.or_none(_outcome(prediction_id)))
    names = [outcome["pipeline"]] if outcome is not None else await client.run(calls.pipelines())
    prediction = await _prediction(places.bootstrap(), names, prediction_id, places.prefix)
    spec = PipelineSpec.of((await client.run(calls.pipeline(prediction.pipeline))).spec)
    await client.run(_flush())
    events = await resolve(places.store(), _wanted(spec, prediction, outcome))
    steps = [_about(prediction)]
    steps += await _up(client, prediction, Artifacts(places.store()))
    steps += _views(spec, prediction, events)
    steps += _label(spec, outcome, events)
    return Lineage(prediction_id, prediction.pipeline, tuple(steps))


async def _prediction(bootstrap: str, names: Iterable[str], prediction_id: str, prefix: str) -> Prediction:
    for name in names:
        async with aclosing(read_topic(bootstrap, topic("predictions", name, prefix=prefix))) as records:
            async for record in records:
                if record.envelope is not None and record.envelope.id == prediction_id:
                    return Prediction.read(record.envelope.data)
    raise TidemillError(f"there is no prediction {prediction_id}")


def _outcome(prediction_id: str) -> Steps[dict[str, Any]]:
    answer: dict[str, Any] = yield Call("monitoring", "GET", f"/v1/outcomes/{prediction_id}")
    return answer


def _flush() -> Steps[None]:
    yield Call("ingestion", "POST", "/v1/archive/flush", {})


def _edges(kind: str, name: str) -> Steps[list[dict[str, str]]]:
    answer = yield Call("registry", "GET", f"/v1/lineage/{kind}/{name}")
    return list(answer["items"])


def _run(request_id: str) -> Steps[dict[str, Any]]:
    answer: dict[str, Any] = yield Call("trainer", "GET", f"/v1/runs/{request_id}")
    return answer


def _wanted(spec: PipelineSpec, prediction: Prediction, outcome: Mapping[str, Any] | None) -> list[Wanted]:
    found = [
        (spec.views[view].source, int(partition), seq)
        for view, read in prediction.revisions.items()
        if view in spec.views
        for partition, seq in read.positions.items()
        if seq >= 0
    ]
    if outcome is not None:
        found.append((spec.label.source, outcome["label_partition"], outcome["label_seq"]))
    return list(dict.fromkeys(found))


def _about(prediction: Prediction) -> Step:
    which = (
        f"{prediction.prediction_id}: {prediction.score:.4f} for {prediction.key} at {format_time(prediction.at_us)}"
    )
    kept = {"pipeline", "key", "at_us", "epoch", "version", "model", "score", "request", "watermark_us", "trace_id"}
    return Step(0, "prediction", which, prediction.model_dump(mode="json", include=kept))


async def _up(client: Asks, prediction: Prediction, artifacts: Artifacts) -> list[Step]:
    """Release, model, run, manifest, request and cause."""
    releases = await client.run(calls.releases(prediction.pipeline))
    edges = await client.run(_edges("model", prediction.model))
    parents = {edge["parent_kind"]: edge["parent"] for edge in edges}
    steps = [_release(release) for release in releases if release.epoch == prediction.epoch][:1]
    steps.append(Step(2, "model", f"version {prediction.version}, {prediction.model}", {"version": prediction.version}))
    if "run" in parents:
        steps.append(Step(3, "run", parents["run"], {"run_id": parents["run"]}))
    if "manifest" in parents:
        steps.append(await _manifest(parents["manifest"], artifacts))
    if "request" in parents:
        run = await client.run(calls.or_none(_run(parents["request"])))
        steps += await _cause(client, prediction.pipeline, parents["request"], run)
    return steps


def _release(release: Released) -> Step:
    since = release.at_us if release.effective_at_us is None else release.effective_at_us
    which = f"epoch {release.epoch} from {format_time(since)}, by {release.reason.kind}"
    return Step(1, "release", which, release.model_dump(mode="json"))


async def _manifest(digest: str, artifacts: Artifacts) -> Step:
    try:
        raw = await asyncio.to_thread(artifacts.get, digest)
    except RuntimeFailure as error:
        raise TidemillError(f"the manifest {digest} cannot be read: {error}") from error
    manifest = TrainingManifest.model_validate_json(raw)
    if manifest.outcomes is not None:
        rows = f"outcomes {manifest.outcomes[0]} to {manifest.outcomes[1]}"
    else:
        rows = ", ".join(f"{name} below {sum(ends.values())}" for name, ends in sorted(manifest.events.items()))
    which = f"{digest[:_SHORT]}: {manifest.trainer} on window {manifest.window}, from {rows}"
    return Step(4, "manifest", which, {"digest": digest, **manifest.model_dump(mode="json")})


async def _cause(client: Asks, pipeline: str, request_id: str, run: dict[str, Any] | None) -> list[Step]:
    cause = run["cause"] if run is not None else {}
    when = f" at {format_time(run['at_us'])}" if run is not None else ""
    steps = [Step(4, "request", f"{request_id}{when}", {"request_id": request_id, **({} if run is None else run)})]
    event_id = cause.get("event_id")
    if event_id is None:
        if cause:
            steps.append(Step(5, "cause", f"{cause['kind']} {cause.get('detail', '')}".strip(), cause))
        return steps
    for each in await client.run(calls.drifts(pipeline)):
        if each.event_id == event_id:
            drift = each.drift
            change = f"{_number(drift.before)} to {_number(drift.after)}"
            where = f", outcomes {drift.outcomes[0]} to {drift.outcomes[1]}" if drift.outcomes else ""
            which = f"{event_id}: {drift.kind} of {drift.subject}, {change} by {drift.detector}{where}"
            return [*steps, Step(5, "cause: drift", which, {"event_id": event_id, **drift.model_dump(mode="json")})]
    return [*steps, Step(5, f"cause: {cause['kind']}", str(event_id), cause)]


def _views(spec: PipelineSpec, prediction: Prediction, events: Mapping[Wanted, SourceEvent]) -> Iterator[Step]:
    """Each view's row, and the newest event of each source partition that it reflects."""
    for view, read in prediction.revisions.items():
        yield _view(view, read)
        if view in spec.views:
            places = [(spec.views[view].source, int(partition), seq) for partition, seq in read.positions.items()]
            yield from (_event(events[place], "up to event") for place in places if place in events)


def _view(view: str, read: ViewRevision) -> Step:
    known = f"revision {read.revision}" if read.revision else "not known yet: defaults"
    when = f" of {format_time(read.at_us)}" if read.at_us is not None else ""
    return Step(1, f"view {view}", f"{read.entity}, {known}{when}", {"view": view, **read.model_dump(mode="json")})


def _label(
    spec: PipelineSpec, outcome: Mapping[str, Any] | None, events: Mapping[Wanted, SourceEvent]
) -> Iterator[Step]:
    if outcome is None:
        yield Step(1, "label", "none yet")
        return
    yield Step(1, "label", f"{outcome['label_event']}, outcome {outcome['seq']}", dict(outcome))
    place = (spec.label.source, outcome["label_partition"], outcome["label_seq"])
    if place in events:
        yield _event(events[place], "event")


def _event(event: SourceEvent, what: str) -> Step:
    place = f"events.{event.source} partition {event.partition} offset {event.offset}"
    which = f"{place} (number {event.seq}, raw offset {event.raw_offset}): {event.id} of {format_time(event.event_us)}"
    return Step(2, what, which, event.to_json())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
