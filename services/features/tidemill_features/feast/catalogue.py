"""What Feast's names mean here: feature views are views, feature services pipelines, push sources sources."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tidemill_contracts.pipeline import PipelineSpec, SourceSpec
from tidemill_engine.entities import EntityKey
from tidemill_features.domain.views import Program, View
from tidemill_features.feast.errors import UnknownService, UnknownView

Ref = tuple[str, str]
"""A view and the name of a feature in it."""


@dataclass(frozen=True, slots=True)
class FeastView:
    """A feature view: where its vectors come from and what stands where in them."""

    name: str
    version: str
    source: str
    topic: str
    features: Mapping[str, int]
    """Name without the view's to place in the vector."""
    key: EntityKey
    """Join keys of a row to the entity's text; `key.key` names them in order."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All views that run, the features of each pipeline, and the sources behind them."""

    views: Mapping[str, FeastView] = field(default_factory=dict)
    services: Mapping[str, Sequence[Ref]] = field(default_factory=dict)
    sources: Mapping[str, SourceSpec] = field(default_factory=dict)

    def view(self, name: str) -> FeastView:
        """The view; raises UnknownView."""
        found = self.views.get(name)
        if found is None:
            raise UnknownView("no pipeline runs a feature view of this name")
        return found

    def service(self, name: str) -> Sequence[Ref]:
        """All features of a pipeline's views, in the file's order; raises UnknownService."""
        found = self.services.get(name)
        if found is None:
            raise UnknownService("there is no pipeline of this name, or one of its views does not run")
        return found

    @property
    def versions(self) -> dict[str, tuple[str, int]]:
        """Topic to version and width: what a replica depends on."""
        return {view.topic: (view.version, len(view.features)) for view in self.views.values()}


def catalogue(specs: Sequence[PipelineSpec], program: Program) -> Catalogue:
    """The names of all pipelines. A pipeline of which a view is not run as it is defined there has no service."""
    by_name = {spec.name: spec for spec in specs}
    views = {view.name: _view(view, by_name[view.pipeline]) for view in program.views if not view.is_kept}
    services, sources = {}, dict[str, SourceSpec]()
    for spec in sorted(specs, key=lambda item: item.name):
        for name, source in spec.sources.items():
            sources.setdefault(name, source)
        if all(name in views and views[name].version == spec.view_version(name) for name in spec.views):
            services[spec.name] = [(name, feature) for name in spec.views for feature in views[name].features]
    return Catalogue(views, services, sources)


def _view(view: View, spec: PipelineSpec) -> FeastView:
    fields = spec.sources[view.source].fields
    return FeastView(
        name=view.name, version=view.version, source=view.source, topic=view.output_topic,
        features={name.removeprefix(f"{view.name}."): place for place, name in enumerate(view.features)},
        key=EntityKey(spec.entities[spec.views[view.name].entity].key, fields),
    )  # fmt: skip
