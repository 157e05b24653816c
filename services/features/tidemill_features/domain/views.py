"""From pipeline files to what this service runs: the views, their topics, and which partitions feed which."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import topic, view_topic
from tidemill_engine.entities import EntityKey, RowReader, event_mark
from tidemill_engine.expressions import Compiled, compile_expression, field_types
from tidemill_engine.windows import ViewPlan, compile_view
from tidemill_features.domain.bulk import Needs, entity_bytes
from tidemill_features.domain.repartition import Row


@dataclass(frozen=True)
class View:
    """One version of one view, ready to run."""

    name: str
    version: str
    pipeline: str
    source: str
    partitions: int
    repartitioned: bool
    lateness_us: int
    plan: ViewPlan
    features: tuple[str, ...]
    input_topic: str
    source_topic: str
    output_topic: str
    read: Callable[[str, int, Mapping[str, Any]], Row | None] = field(compare=False)
    """Event id, time and body to a row, None where the view does not want it. Raises ValueError for a bad body."""
    needs: Needs = field(compare=False)
    """The same for many bodies at once."""
    is_kept: bool = False
    """Only a release on hand reads this version; the pipeline's file has another one, or none."""

    @property
    def owner(self) -> str:
        """Names the view's state in the store, whatever the pipeline."""
        return f"{self.name}/{self.version}"

    def sources(self, partition: int) -> tuple[int, ...]:
        """Source partitions whose events may reach this partition of the view."""
        return tuple(range(self.partitions)) if self.repartitioned else (partition,)


@dataclass(frozen=True)
class Program:
    """All views, and what could not be run with the reason."""

    views: tuple[View, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def router_topics(self) -> tuple[str, ...]:
        """Topics that the router reads: events of the repartitioned views."""
        return _distinct(view.source_topic for view in self.views if view.repartitioned)

    @property
    def input_topics(self) -> tuple[str, ...]:
        """Topics that the aggregator reads."""
        return _distinct(view.input_topic for view in self.views)

    def of_partition(self, partition: int) -> tuple[View, ...]:
        """Views that have this partition."""
        return tuple(view for view in self.views if partition < view.partitions)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names)))


def compile_program(pipelines: Sequence[PipelineSpec], prefix: str, kept: Sequence[PipelineSpec] = ()) -> Program:
    """The program of all pipelines. The same view in two of them runs once.

    Of the `kept` files, which releases on hand were made for, every other version of a view runs beside.

    Refused, by `pipeline/view`: a view that the engine cannot run, one whose name another definition holds already
    (pipelines in order of their names), one whose source has another number of partitions in a pipeline before.
    """
    views: dict[str, View] = {}
    partitions: dict[str, int] = {}
    refused: dict[str, str] = {}
    for spec in sorted(pipelines, key=lambda item: item.name):
        for name in spec.views:
            try:
                view = compile_one(spec, name, prefix)
                _check(view, views.get(name), partitions.setdefault(view.source, view.partitions))
            except ValueError as error:
                refused[f"{spec.name}/{name}"] = str(error)
            else:
                views.setdefault(name, view)
    program = {view.owner: view for view in views.values()}
    for spec in sorted(kept, key=lambda item: (item.name, item.digest())):
        for name in spec.views:
            try:
                view = replace(compile_one(spec, name, prefix), is_kept=True)
                _check(view, None, partitions.setdefault(view.source, view.partitions))
            except ValueError as error:
                refused.setdefault(f"{spec.name}/{name}", str(error))
            else:
                program.setdefault(view.owner, view)
    return Program(tuple(program[owner] for owner in sorted(program)), refused)


def _check(view: View, held: View | None, partitions: int) -> None:
    if view.partitions != partitions:
        msg = f"the source {view.source} has {partitions} partitions in another pipeline, {view.partitions} here"
        raise ValueError(msg)
    if held is not None and held.version != view.version:
        msg = f"the pipeline {held.pipeline} defines another view of this name"
        raise ValueError(msg)


def compile_one(spec: PipelineSpec, name: str, prefix: str) -> View:
    """One view of a pipeline; raises ValueError where the engine cannot run it."""
    view = spec.views[name]
    source = spec.sources[view.source]
    plan = compile_view(view, source)
    repartitioned = spec.is_repartitioned(name)
    events = topic("events", view.source, prefix=prefix)
    key, version = EntityKey(spec.entities[view.entity].key, source.fields), spec.view_version(name)
    where = None if view.where is None else compile_expression(view.where, field_types(source.fields))
    if where is not None and not where.is_boolean:
        msg = "where must be true or false"
        raise ValueError(msg)
    return View(
        name=name, version=version, pipeline=spec.name, source=view.source, partitions=spec.partitions,
        repartitioned=repartitioned, lateness_us=source.allowed_lateness, plan=plan,
        features=tuple(view.feature_names(name)),
        input_topic=topic("repartition", view.source, prefix=prefix) if repartitioned else events,
        source_topic=events, output_topic=view_topic("features", name, version, prefix=prefix),
        read=row_reader(key, RowReader(plan.fields, source.fields), where),
        needs=Needs(key, plan.fields, where, source.fields),
    )  # fmt: skip


def row_reader(
    key: EntityKey, numbers: RowReader, where: Compiled | None
) -> Callable[[str, int, Mapping[str, Any]], Row | None]:
    """Event id, time and body to a row. Only an event for which `where` is true and that names an entity gives one."""

    def read(event_id: str, time_us: int, body: Mapping[str, Any]) -> Row | None:
        if where is not None and where.row(body) != 1.0:
            return None
        entity = key(body)
        if entity is None:
            return None
        return Row(entity_bytes(entity), time_us, event_mark(event_id), numbers(body))

    return read
