"""The whole pipeline, with the rules that cross its parts."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from tidemill_contracts.base import Contract, FieldName, Name
from tidemill_contracts.pipeline.inference import InferenceSpec
from tidemill_contracts.pipeline.model import (
    ColdStartSpec,
    GateSpec,
    LabelSpec,
    ModelSpec,
    MonitorSpec,
    PolicySpec,
    RequestSpec,
    RolloutSpec,
)
from tidemill_contracts.pipeline.views import CAME_LATER, EntitySpec, SourceSpec, ViewSpec
from tidemill_contracts.topics import DEFAULT_PARTITIONS

_PICKS = {"distinct", "first", "last", "lag", "age_of_last"}
_OF_TEXT = {"string": {"distinct"}, "category": {"top", *_PICKS}}
"""What can be said of fields that are no numbers; a category counts as its place in the declared list."""


def canonical_digest(value: object) -> str:
    """SHA-256 of the value's JSON with sorted keys and no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class PipelineSpec(Contract):
    """One pipeline. Names used across parts must exist; a message names the place and the rule."""

    version: Literal[1]
    name: Name
    description: str = ""
    partitions: int = Field(default=DEFAULT_PARTITIONS, ge=1, le=256)
    sources: dict[Name, SourceSpec] = Field(min_length=1, max_length=64)
    entities: dict[Name, EntitySpec] = Field(default_factory=dict, max_length=64)
    views: dict[Name, ViewSpec] = Field(default_factory=dict, max_length=64)
    request: RequestSpec
    inference: InferenceSpec | None = Field(
        default=None, exclude_if=lambda found: found is None, description="what of tensors is logged; none: all of it"
    )
    label: LabelSpec
    cold_start: ColdStartSpec | None = None
    model: ModelSpec = ModelSpec()
    gate: GateSpec = GateSpec()
    monitor: MonitorSpec = MonitorSpec()
    rollout: RolloutSpec = RolloutSpec()
    policy: PolicySpec = PolicySpec()

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Self:
        """Read a file as events and answers carry it, JSON that has been decoded; raises ValidationError."""
        return cls.model_validate_json(json.dumps(spec))  # JSON's rules for types are others than Python's

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        problems = [*self._view_problems(), *self._request_problems(), *self._label_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _view_problems(self) -> Iterator[str]:
        for name, view in self.views.items():
            source, entity = self.sources.get(view.source), self.entities.get(view.entity)
            if source is None:
                yield f"views.{name}.source: {view.source} is not a source"
                continue
            if entity is None:
                yield f"views.{name}.entity: {view.entity} is not an entity"
                continue
            wanted = [*entity.key, *(a.field for a in view.aggregations if a.field)]
            yield from (f"views.{name}: {f} is not a field of {view.source}" for f in wanted if f not in source.fields)
            for aggregation in view.aggregations:
                kind = source.fields[aggregation.field].type if aggregation.field in source.fields else "float"
                if aggregation.field and aggregation.function not in _OF_TEXT.get(kind, {aggregation.function}):
                    yield f"views.{name}: {aggregation.function} needs a number, {aggregation.field} is {kind}"

    def _request_problems(self) -> Iterator[str]:
        fields = self.request.fields
        if self.request.key not in fields:
            yield f"request.key: {self.request.key} is not a request field"
        if self.request.time is not None and getattr(fields.get(self.request.time), "type", "") != "timestamp":
            yield f"request.time: {self.request.time} is not a timestamp field of the request"
        for name, view in self.views.items():
            entity = self.entities.get(view.entity)
            yield from (
                f"request.fields: {f} is missing, the key of {name}"
                for f in (entity.key if entity else [])
                if f not in fields
            )
        yield from (f"monitor.segments: {f} is not a request field" for f in self.monitor.segments if f not in fields)
        if self.rollout.sticky is not None and self.rollout.sticky not in fields:
            yield f"rollout.sticky: {self.rollout.sticky} is not a request field"
        keys = {
            f for view in self.views.values() if view.entity in self.entities for f in self.entities[view.entity].key
        }
        for name, rule in self.request.unlogged.items():
            if name in keys:
                yield f"request.{rule}: {name} is of an entity's key, by which the log names what was read"
            if name == self.rollout.sticky:
                yield f"request.{rule}: {name} is rollout.sticky, by which who answered is told from the log"
            if name in self.monitor.segments:
                yield f"request.{rule}: {name} is one of monitor.segments, which are told by the log"

    def _label_problems(self) -> Iterator[str]:
        source = self.sources.get(self.label.source)
        if source is None:
            yield f"label.source: {self.label.source} is not a source"
        elif self.label.join not in source.fields:
            yield f"label.join: {self.label.join} is not a field of {self.label.source}"
        if self.cold_start is not None:
            spine = self.sources.get(self.cold_start.source)
            if spine is None:
                yield f"cold_start.source: {self.cold_start.source} is not a source"
            elif getattr(spine.fields.get(self.cold_start.time), "type", "") != "timestamp":
                yield f"cold_start.time: {self.cold_start.time} is not a timestamp field of {self.cold_start.source}"

    def digest(self) -> str:
        """SHA-256 of the canonical JSON: names this exact definition."""
        return canonical_digest(self.model_dump(mode="json"))

    def policy_digest(self) -> str:
        """Digest of what decides: gate, monitor, rollout and policy."""
        parts = (self.gate, self.monitor, self.rollout, self.policy)
        return canonical_digest([part.model_dump(mode="json") for part in parts])

    def view_version(self, view: str) -> str:
        """Digest of everything that decides a view's values, 16 hexadecimal digits."""
        spec = self.views[view]
        source = self.sources[spec.source]
        definition = spec.model_dump(mode="json", exclude={"owner", "description"})
        for item in definition["aggregations"]:
            for name in CAME_LATER:
                if item.get(name) is None:
                    item.pop(name, None)
        parts = [definition, self.entities[spec.entity].key]
        fields = {name: field.model_dump(mode="json") for name, field in source.fields.items()}
        return canonical_digest([view, *parts, fields, source.time])[:16]

    def vector_digest(self, features: Sequence[str]) -> str:
        """Digest of what a vector of these features is: their names in order, and the versions of the views behind."""
        used = {name.partition(".")[0] for name in features} & set(self.views)
        return canonical_digest([list(features), {view: self.view_version(view) for view in sorted(used)}])

    def is_repartitioned(self, view: str) -> bool:
        """Whether the view's entity key is not its source's key."""
        spec = self.views[view]
        return self.entities[spec.entity].key != self.sources[spec.source].key

    def feature_names(self) -> list[FieldName]:
        """Names of the model's inputs: of views in the file's order, then of the request; filtered by the model's."""
        names = [name for view, spec in self.views.items() for name in spec.feature_names(view)]
        names += [f"request.{name}" for name in self.request.features]
        return names if self.model.features is None else [name for name in names if name in set(self.model.features)]
