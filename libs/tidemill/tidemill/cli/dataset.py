"""`dataset build` and `features backfill`: feature values from the archive of events."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tidemill.cli.output import HomeOption, JsonOption, emit, errors, say

if TYPE_CHECKING:
    from tidemill.datasets.gather import Solve
    from tidemill.datasets.timeline import Compute
    from tidemill_contracts.pipeline import PipelineSpec

PipelineOption = Annotated[
    Path | None,
    typer.Option("--pipeline", help="A pipeline file, applied or not.", exists=True, dir_okay=False, metavar="FILE"),
]
ArchiveOption = Annotated[
    str | None,
    typer.Option(
        "--archive", help="Folder or s3:// URL of the artifacts.", show_default="the running stack's, flushed first"
    ),
]
ViewsOption = Annotated[
    list[str] | None, typer.Option("--view", help="A view; may stand several times.", show_default="all inputs")
]
TimeOption = Annotated[
    str | None, typer.Option("--time", help="The rows' column of time.", show_default="the request's")
]
KnownTimeOption = Annotated[
    str | None, typer.Option("--known-time", help="For --as-known: up to when of the log's time each row may look.")
]
ManifestOption = Annotated[
    Path | None, typer.Option("--manifest", help="Build the dataset of this manifest again.", exists=True)
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", help="ray: the entities split over a Ray cluster (RAY_ADDRESS, else a local one)."),
]
NameArgument = Annotated[str | None, typer.Argument(help="The name of an applied pipeline; or give --pipeline.")]


def register(app: typer.Typer) -> None:
    """Add the commands; `features` is one group with the catalogue's commands."""
    dataset = typer.Typer(help="Training data from the archive.", no_args_is_help=True)
    dataset.command("build")(build)
    dataset.callback()(_dataset)
    app.add_typer(dataset, name="dataset", rich_help_panel="Data")
    group(app, "features", "Feature views.").command("backfill")(backfill)


def group(app: typer.Typer, name: str, about: str) -> typer.Typer:
    """The group of commands of this name, made if there is none yet."""
    for known in app.registered_groups:
        if known.name == name and known.typer_instance is not None:
            return known.typer_instance
    made = typer.Typer(help=about, no_args_is_help=True)
    made.callback()(_features)
    app.add_typer(made, name=name, rich_help_panel="Data")
    return made


def build(  # noqa: PLR0913 - the options of a command
    output: Annotated[Path, typer.Option("--output", "-o", help="A file: .parquet, .csv or .arrow.")],
    pipeline: NameArgument = None,
    file: PipelineOption = None,
    rows: Annotated[
        Path | None, typer.Option("--rows", help="Entity rows: .parquet, .csv or .arrow with keys and a time.")
    ] = None,
    from_source: Annotated[str | None, typer.Option("--from-source", help="The archived events of a source.")] = None,
    view: ViewsOption = None,
    as_known: Annotated[
        bool, typer.Option("--as-known", help="Only events that the log held when the row happened.")
    ] = False,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="With --from-source: also events that are quarantined.")
    ] = False,
    time: TimeOption = None,
    known_time: KnownTimeOption = None,
    manifest: ManifestOption = None,
    engine: EngineOption = "local",
    archive: ArchiveOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build a dataset: features of each entity row as of its time, exactly one row for each, in the order given.

    A row sees events strictly before its time. Quarantined events of a source are no rows. What decided the bytes of
    the file is written beside it, as a manifest.

    Example: [bold]tidemill dataset build flight-delay --rows flights.parquet --output train.parquet[/bold]
    """
    from tidemill.datasets import FromSource, Options  # noqa: PLC0415 - `--help` needs no Arrow
    from tidemill.datasets import build as build_table  # noqa: PLC0415 - see above
    from tidemill.datasets.files import format_of  # noqa: PLC0415 - see above

    if (rows is None) == (from_source is None):
        raise typer.BadParameter("give either --rows or --from-source")
    format_of(output)
    asked = rows if rows is not None else FromSource(str(from_source))
    with _progress() as tell:
        options = Options(
            views=view or None, as_known=as_known, time=time, known_time=known_time, manifest=manifest,
            archive=archive, quarantined=quarantined, home=home, tell=tell, solve=_solve(engine),
        )  # fmt: skip
        made = build_table(_pipeline(pipeline, file), asked, options).save(output)
    if as_json:
        emit(made.model_dump(mode="json"))
        return
    events = sum(sum(ends.values()) for ends in made.events.values())
    say(f"[bold]{output}[/bold]: {made.rows.count:,} rows, {len(made.features)} features from {events:,} events")


def backfill(  # noqa: PLR0913 - the options of a command
    view: Annotated[str, typer.Argument(help="The view's name.")],
    since: Annotated[str, typer.Option("--from", help="Event time, RFC 3339.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .parquet file.")],
    pipeline: Annotated[str | None, typer.Option("--of", help="An applied pipeline; or give --pipeline.")] = None,
    file: PipelineOption = None,
    until: Annotated[
        str | None, typer.Option("--to", help="Event time, not included.", show_default="after the last event")
    ] = None,
    every: Annotated[
        str | None, typer.Option("--every", help="A grid, such as 1h.", show_default="at every change")
    ] = None,
    engine: EngineOption = "local",
    archive: ArchiveOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what a view's values were, entity by entity, at every change or on a grid of times.

    Example: [bold]tidemill features backfill airport-departures --of flight-delay
    --from 2013-02-01T00:00:00Z --output february.parquet[/bold]
    """
    from tidemill.datasets.build import spec_of  # noqa: PLC0415 - see build
    from tidemill.datasets.timeline import Timeline, backfill_view, write_tables  # noqa: PLC0415 - see build
    from tidemill_contracts import parse_time  # noqa: PLC0415 - see build
    from tidemill_contracts.base import parse_duration  # noqa: PLC0415 - see build

    try:
        when = Timeline(
            from_us=parse_time(since), to_us=None if until is None else parse_time(until),
            every_us=None if every is None else parse_duration(every),
        )  # fmt: skip
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    spec = spec_of(_pipeline(pipeline, file), home)
    place, below = _archived(spec, view, archive, home)
    with _progress() as tell:
        tables = backfill_view(spec, view, when, archive=place, below=below, tell=tell, compute=_compute(engine))
        rows, digest = write_tables(tables, output)
    if as_json:
        emit({
            "view": view, "version": spec.view_version(view), "rows": rows, "sha256": digest,
            "events": {spec.views[view].source: {str(p): end for p, end in below.items()}},
        })  # fmt: skip
    else:
        say(f"[bold]{output}[/bold]: {rows:,} rows of {view} from {sum(below.values()):,} events")


def _solve(engine: str) -> "Solve":
    from tidemill.datasets.gather import solve_here  # noqa: PLC0415 - see build
    from tidemill.datasets.on_ray import solve_on_ray  # noqa: PLC0415 - see build

    return solve_on_ray if engine == "ray" else solve_here


def _compute(engine: str) -> "Compute":
    from tidemill.datasets.on_ray import parts_on_ray  # noqa: PLC0415 - see build
    from tidemill.datasets.timeline import parts_here  # noqa: PLC0415 - see build

    return parts_on_ray if engine == "ray" else parts_here


def _pipeline(name: str | None, file: Path | None) -> str | Path:
    if file is not None:
        return file
    if name is None:
        raise typer.BadParameter("name an applied pipeline, or give --pipeline FILE")
    return name


def _archived(spec: "PipelineSpec", view: str, archive: str | None, home: Path | None) -> tuple[str, dict[int, int]]:
    """Where the archive of a view's source is, and what it holds."""
    from tidemill.datasets import DatasetError  # noqa: PLC0415 - see build
    from tidemill.datasets.events import positions  # noqa: PLC0415 - see build
    from tidemill.datasets.place import flushed_archive  # noqa: PLC0415 - see build

    if view not in spec.views:
        raise DatasetError(f"{view} is not a view of {spec.name}; it has {', '.join(spec.views)}")
    place = archive or flushed_archive(home)[0]
    return place, positions(place, spec.views[view].source)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each thing that is done, where somebody watches."""
    from rich.progress import Progress, TaskID  # noqa: PLC0415 - only for what takes a while

    tasks: dict[str, TaskID] = {}
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as progress:

        def tell(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=of)
            progress.update(tasks[what], completed=done, total=of)

        yield tell


def _dataset() -> None:
    """Datasets are functions of their manifests."""


def _features() -> None:
    """Views of entities' events."""
