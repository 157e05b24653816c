"""The catalogue of feature views: what they are, how they stand, and who uses them."""

from collections.abc import Iterator, Mapping
from typing import Any

from tidemill.client import results as r
from tidemill.client.calls import Steps, champion, or_none, pipeline, pipelines, status
from tidemill.client.errors import TidemillError
from tidemill.client.quarantine import quarantine
from tidemill_contracts import format_duration
from tidemill_contracts.pipeline import PipelineSpec, WindowSpec

_SECOND_US = 1_000_000
_MOST = 1000


class FeatureView(r.Result):
    """A view of a pipeline. Fields that say how it stands are None where no instance runs it (yet).

    `rows` are entities, `lag` events of its source that it has not seen, `behind_s` seconds of event time between the
    source's newest event and the view's watermark. `consumers` are `pipeline` for a definition and `pipeline epoch N`
    for the release that answers; a version without any is kept for the release before it. `quarantined` counts windows
    of the source that are kept from training, None where the source declares no quality.
    """

    name: str
    version: str
    owner: str
    description: str
    pipeline: str
    entity: str
    key: list[str]
    source: str
    where: str | None
    windows: dict[str, str]
    features: list[str]
    watermark_us: int | None
    behind_s: float | None
    lag: int | None
    rows: int | None
    state_bytes: int | None
    consumers: list[str]
    quarantined: int | None


def feature_views() -> Steps[list[FeatureView]]:
    """All views of all pipelines by name; a view that several pipelines define in the same way stands once."""
    running = {(each["view"], each["version"]): each for each in (yield from status("features"))["views"]}
    sources = (yield from status("ingestion"))["sources"]
    held = [each.source for each in (yield from quarantine(limit=_MOST))]
    found: dict[tuple[str, str], FeatureView] = {}
    for name in (yield from pipelines()):
        standing = yield from pipeline(name)
        release = yield from or_none(champion(name))
        used = {} if release is None else release.views
        files = [standing.spec, *(file["spec"] for file in standing.kept)]
        specs = [PipelineSpec.of(file) for file in files]
        for spec, view in [(each, view) for each in specs for view in each.views]:
            place = view, spec.view_version(view)
            consumers = [name] if spec is specs[0] else []
            if release is not None and used.get(view) == place[1]:
                consumers.append(f"{name} epoch {release.epoch}")
            if place in found:
                known = found[place]
                merged = dict.fromkeys([*known.consumers, *consumers])
                found[place] = known.model_copy(update={"consumers": list(merged)})
                continue
            stands = running.get(place)
            state = {} if stands is None else _state(stands, sources.get(spec.views[view].source, {}))
            found[place] = _view(spec, view, state, consumers, held)
    return [found[place] for place in sorted(found)]


def feature_view(name: str) -> Steps[FeatureView]:
    """The view of this name; of several versions the one that runs."""
    found = [each for each in (yield from feature_views()) if each.name == name]
    if not found:
        raise TidemillError(f"there is no view {name}")
    return max(found, key=lambda each: each.rows is not None)


def _view(
    spec: PipelineSpec, name: str, state: Mapping[str, Any], consumers: list[str], held: list[str]
) -> FeatureView:
    view = spec.views[name]
    declares = spec.sources[view.source].quality is not None
    windows = {each: _length(window) for each, window in view.windows.items()}
    stands = {key: state.get(key) for key in ("watermark_us", "behind_s", "lag", "rows", "state_bytes")}
    return FeatureView(
        name=name, version=spec.view_version(name), owner=view.owner, description=view.description, pipeline=spec.name,
        entity=view.entity, key=list(spec.entities[view.entity].key), source=view.source, where=view.where,
        windows=windows, features=view.feature_names(name), consumers=consumers,
        quarantined=held.count(view.source) if declares else None, **stands,
    )  # fmt: skip


def _length(window: WindowSpec) -> str:
    length = format_duration(window.length)
    return length if window.session is None else f"session {format_duration(window.session)} (at most {length})"


def _state(running: Mapping[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """How a view stands: what the features service holds of it against what ingestion has numbered of its source."""
    parts = running["partitions"]
    marks = [part["watermark_us"] for part in parts]
    watermark = min(marks) if marks and None not in marks else None
    newest = max((each for each in source.get("newest_us", {}).values() if each is not None), default=None)
    behind = None if watermark is None or newest is None else max(newest - watermark, 0) / _SECOND_US
    return {
        "watermark_us": watermark, "behind_s": behind, "rows": sum(part["keys"] for part in parts),
        "state_bytes": sum(part["state_bytes"] for part in parts),
        "lag": sum(_unseen(parts, source.get("positions", {}))),
    }  # fmt: skip


def _unseen(parts: list[dict[str, Any]], positions: Mapping[str, int]) -> Iterator[int]:
    """For each source partition the events that some partition of the view has not seen."""
    for partition, end in positions.items():
        seen = [part["positions"][partition] + 1 for part in parts if partition in part["positions"]]
        yield max(end - min(seen, default=0), 0)
