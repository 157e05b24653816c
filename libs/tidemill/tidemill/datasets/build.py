"""`build`: features of every entity row, as of its time, from the archive; the same manifest gives the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tidemill.client.clients import Client
from tidemill.datasets.errors import DatasetError
from tidemill.datasets.events import positions
from tidemill.datasets.files import table_digest
from tidemill.datasets.gather import Archived, Gathering, Progress, Solve, solve_here, view_values
from tidemill.datasets.manifest import DatasetManifest, code_digest, libraries, read_manifest
from tidemill.datasets.place import flushed_archive
from tidemill.datasets.quarantined import quarantined
from tidemill.datasets.rows import EVENT_TIME, NOTHING, EntityRows, FromSource, rows_of_source, rows_of_table
from tidemill.datasets.table import Table
from tidemill_contracts.pipeline import PipelineSpec, load_pipeline
from tidemill_engine.arrays import Float64s
from tidemill_engine.expressions import compile_expression, encode_columns, field_types
from tidemill_engine.quarantine import Quarantine

REQUEST = "request."


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What else a dataset may be asked for.

    `views`: their features, in this order; none: every input of the pipeline's model. `as_known`: only events that
    the log held when the row happened. `time` and `known_time` name columns of the rows. `manifest`: build it again.
    `archive`: the folder or s3:// URL of the artifacts; none: of the running stack, flushed first. `quarantined`: rows
    from a source are also those of its events that the running stack has in quarantine; nothing is known of these
    where an `archive` is named.
    """

    views: Sequence[str] | None = None
    as_known: bool = False
    time: str | None = None
    known_time: str | None = None
    manifest: DatasetManifest | Path | None = None
    archive: str | None = None
    quarantined: bool = False
    home: Path | None = None
    solve: Solve = solve_here
    tell: Progress = lambda _what, _done, _of: None


def build(
    pipeline: PipelineSpec | Path | str, rows: pa.Table | Path | str | FromSource, options: Options | None = None
) -> Table:
    """A table with one row for each entity row, in the order given, and its features; null where nothing is known.

    A row sees events strictly before its time. `pipeline` is a definition, its file, or the name of an applied one;
    `rows` an Arrow table or a file with the columns of the entities' keys and a time, or a source.

    Raises:
        DatasetError: the rows, the manifest or the archive do not fit; the message says what.
        PipelineError, OSError: a file cannot be read.
    """
    options = options or Options()
    spec = spec_of(pipeline, options.home)
    earlier = read_manifest(options.manifest) if isinstance(options.manifest, Path) else options.manifest
    if earlier is not None:
        options = _repeated(earlier, spec, options)
    views, features = _features(spec, options.views)
    asked = Path(rows) if isinstance(rows, str) else rows
    sources = {spec.views[view].source for view in views}
    if isinstance(asked, FromSource):
        sources.add(asked.source)
    archived = _archived(sources, earlier, options)
    held = _held(asked, earlier, options)
    entities = _rows(asked, spec, archived, held, options)
    if earlier is not None and earlier.rows.digest != entities.origin.digest:
        raise DatasetError(f"the rows are not those of the manifest ({earlier.rows.count} rows, other values)")
    table = _table(spec, views, features, entities, archived, options)
    made = _manifest(spec, views, features, entities, archived, table, options)
    return Table(table, made.model_copy(update={"excluded": _excluded(held)}))


def spec_of(pipeline: PipelineSpec | Path | str, home: Path | None) -> PipelineSpec:
    """The definition in a file, or of an applied pipeline of the running stack."""
    if isinstance(pipeline, PipelineSpec):
        return pipeline
    if isinstance(pipeline, Path):
        return load_pipeline(pipeline)
    with Client(home) as client:
        return PipelineSpec.of(client.pipeline(pipeline).spec)


def _repeated(earlier: DatasetManifest, spec: PipelineSpec, options: Options) -> Options:
    """The options that the manifest was made with; raises DatasetError where this pipeline is another."""
    if earlier.pipeline != spec.name:
        raise DatasetError(f"the manifest is of the pipeline {earlier.pipeline}, not of {spec.name}")
    changed = [v for v, made in earlier.views.items() if v not in spec.views or spec.view_version(v) != made]
    if changed or (earlier.spec != spec.digest() and any(name.startswith(REQUEST) for name in earlier.features)):
        what = f"views {', '.join(changed)}" if changed else "request features"
        raise DatasetError(f"the pipeline has other {what} than the manifest: give the file it was made with")
    named = (name.partition(".")[0] for name in earlier.features)
    views = tuple(view for view in dict.fromkeys(named) if view in earlier.views)
    return Options(
        views=views if _of_views(spec, views) == earlier.features else None,
        as_known=earlier.mode == "as-known", time=earlier.rows.time, known_time=earlier.rows.known_time,
        archive=options.archive, home=options.home, solve=options.solve, tell=options.tell,
    )  # fmt: skip


def _of_views(spec: PipelineSpec, views: Sequence[str]) -> list[str]:
    return [name for view in views for name in spec.views[view].feature_names(view)]


def _features(spec: PipelineSpec, views: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The views to compute and the features to give."""
    if views is None:
        features = spec.feature_names()
        return [v for v in spec.views if set(spec.views[v].feature_names(v)) & set(features)], features
    unknown = [view for view in views if view not in spec.views]
    if unknown:
        raise DatasetError(f"{', '.join(unknown)} is not a view of {spec.name}; it has {', '.join(spec.views)}")
    return list(dict.fromkeys(views)), _of_views(spec, list(dict.fromkeys(views)))


def _archived(sources: set[str], earlier: DatasetManifest | None, options: Options) -> Archived:
    place = options.archive or flushed_archive(options.home)[0]
    if earlier is not None:
        return Archived(place, {s: {int(p): end for p, end in ends.items()} for s, ends in earlier.events.items()})
    below = {source: positions(place, source) for source in sorted(sources)}
    empty = [source for source, ends in below.items() if not ends]
    if empty:
        raise DatasetError(f"the archive at {place} holds no events of {', '.join(empty)}")
    return Archived(place, below)


def _held(asked: pa.Table | Path | FromSource, earlier: DatasetManifest | None, options: Options) -> Quarantine:
    """What of the rows' source is left out: as the manifest has it, else as the running stack has it."""
    if not isinstance(asked, FromSource):
        return NOTHING
    if earlier is not None:
        return Quarantine({f"events.{asked.source}": dict(earlier.excluded)} if earlier.excluded else {})
    return NOTHING if options.quarantined or options.archive is not None else quarantined(options.home, asked.source)


def _excluded(held: Quarantine) -> Mapping[str, Sequence[tuple[int, int]]]:
    return next(iter(held.ranges.values()), {})


def _rows(
    asked: pa.Table | Path | FromSource, spec: PipelineSpec, archived: Archived, held: Quarantine, options: Options
) -> EntityRows:
    if isinstance(asked, FromSource):
        wanted = FromSource(asked.source, None if options.time == EVENT_TIME else asked.time or options.time)
        return rows_of_source(wanted, spec, archived.place, archived.below.get(wanted.source, {}), held)
    return rows_of_table(asked, spec, time=options.time, known_time=options.known_time)


def _table(  # noqa: PLR0913 - the parts of a dataset
    spec: PipelineSpec, views: Sequence[str], features: Sequence[str], rows: EntityRows, archived: Archived,
    options: Options,
) -> pa.Table:  # fmt: skip
    both = [name for name in features if name in rows.table.column_names]
    if both:
        raise DatasetError(f"the rows have columns that are features' names: {', '.join(both)}")
    named = _request_features(spec, rows, [name for name in features if name.startswith(REQUEST)])
    how = Gathering(options.as_known, options.solve, options.tell)
    for view, values in view_values(spec, views, rows, archived, how).items():
        named |= dict(zip(spec.views[view].feature_names(view), values.T, strict=True))
    table = rows.table
    for name in features:
        table = table.append_column(name, pa.array(np.ascontiguousarray(named[name]), from_pandas=True))
    return table.combine_chunks()


def _request_features(spec: PipelineSpec, rows: EntityRows, names: Sequence[str]) -> dict[str, Float64s]:
    types = field_types(spec.request.fields)
    compiled = {name: compile_expression(spec.request.features[name.removeprefix(REQUEST)], types) for name in names}
    used = {field for expression in compiled.values() for field in expression.fields}
    requests = rows.requests({name: spec.request.fields[name] for name in spec.request.fields if name in used})
    columns = encode_columns({name: types[name] for name in sorted(used)}, requests)
    count = rows.table.num_rows
    return {name: expression(columns, rows=count) for name, expression in compiled.items()}


def _manifest(  # noqa: PLR0913 - the parts of a dataset
    spec: PipelineSpec, views: Sequence[str], features: Sequence[str], rows: EntityRows, archived: Archived,
    table: pa.Table, options: Options,
) -> DatasetManifest:  # fmt: skip
    return DatasetManifest(
        pipeline=spec.name, spec=spec.digest(), mode="as-known" if options.as_known else "event-time",
        events={source: _texts(ends) for source, ends in sorted(archived.below.items())},
        views={view: spec.view_version(view) for view in views}, features=list(features), rows=rows.origin,
        values=table_digest(table), code=code_digest(), libraries=libraries(),
    )  # fmt: skip


def _texts(ends: Mapping[int, int]) -> dict[str, int]:
    return {str(partition): end for partition, end in sorted(ends.items())}
