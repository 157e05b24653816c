"""`archive verify` and `archive compact`: that the log is whole, also where the topics no longer are."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, say, table

if TYPE_CHECKING:
    from tidemill_runtime.archive_care import ArchiveCheck

SourcesArgument = Annotated[list[str] | None, typer.Argument(help="Sources; none: all.")]
ArchiveOption = Annotated[
    str | None,
    typer.Option(
        "--archive", help="Folder or s3:// URL of the artifacts.", show_default="the running stack's, flushed first"
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    archive = typer.Typer(help="The archive of events.", no_args_is_help=True)
    archive.callback()(_archive)
    archive.command("verify")(verify)
    archive.command("compact")(compact)
    app.add_typer(archive, name="archive", rich_help_panel="Evidence")


def verify(
    sources: SourcesArgument = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", help="The JSON of an earlier verification: no event may have changed.", exists=True),
    ] = None,
    archive: ArchiveOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that every number of every source has exactly one event, at rising offsets; exit code 1 if not.

    With a running stack the archive must reach as far as the topics do. The JSON holds digests of all events.

    Example: [bold]tidemill archive verify departures --json[/bold]
    """
    from tidemill.client.errors import TidemillError  # noqa: PLC0415 - `--help` needs no Arrow
    from tidemill_runtime.archive import archive_path  # noqa: PLC0415 - see above
    from tidemill_runtime.archive_care import check_archive  # noqa: PLC0415 - see above
    from tidemill_runtime.errors import RuntimeFailure  # noqa: PLC0415 - see above

    place, ends = _place(archive, home, sources)
    before = {} if against is None else {each["source"]: each for each in json.loads(against.read_text())}
    try:
        checks = [
            check_archive(archive_path(place, name), name, below=below, earlier=before.get(name))
            for name, below in ends.items()
        ]
    except RuntimeFailure as error:
        raise TidemillError(str(error)) from error
    if as_json:
        emit([check.to_json() for check in checks])
    else:
        _show(checks)
    if not all(check.ok for check in checks):
        raise typer.Exit(1)


def compact(
    sources: SourcesArgument = None,
    keep: Annotated[int, typer.Option("--keep", help="Hours for which replaced files stay.", min=0)] = 24,
    archive: ArchiveOption = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge small files into large ones, and delete replaced files. No event is removed.

    Example: [bold]tidemill archive compact departures --keep 24[/bold]
    """
    from dataclasses import asdict  # noqa: PLC0415 - see verify

    from tidemill.client.errors import TidemillError  # noqa: PLC0415 - see verify
    from tidemill_runtime.archive import archive_path  # noqa: PLC0415 - see verify
    from tidemill_runtime.archive_care import compact_archive  # noqa: PLC0415 - see verify
    from tidemill_runtime.errors import RuntimeFailure  # noqa: PLC0415 - see verify

    place, ends = _place(archive, home, sources)
    try:
        done = [compact_archive(archive_path(place, name), name, keep_hours=keep) for name in ends]
    except RuntimeFailure as error:
        raise TidemillError(str(error)) from error
    if as_json:
        emit([asdict(each) for each in done])
        return
    shown = table("source", "files before", "after", "deleted", "MB")
    for each in done:
        numbers = (each.files_before, each.files_after, each.deleted, round(each.bytes_after / 1e6, 1))
        shown.add_row(*plain(each.source, *map(str, numbers)))
    console.print(shown)


def _place(
    archive: str | None, home: Path | None, sources: list[str] | None
) -> tuple[str, dict[str, dict[int, int] | None]]:
    """Where the archive is, and where each wanted source must end (None: what its own last commit says)."""
    from tidemill.client.errors import TidemillError  # noqa: PLC0415 - see verify
    from tidemill.datasets.place import flushed_archive  # noqa: PLC0415 - see verify

    if archive is None:
        place, known = flushed_archive(home)
        ends: dict[str, dict[int, int] | None] = {**known}
    else:
        place = archive
        ends = dict.fromkeys(sources or _sources(place))
    unknown = [name for name in sources or [] if name not in ends]
    if unknown or not ends:
        raise TidemillError(f"there is no archive of {', '.join(unknown) or 'any source'} at {place}")
    return place, {name: ends[name] for name in sources or sorted(ends)}


def _sources(place: str) -> list[str]:
    """Sources with an archive in a folder; those in an object store must be named."""
    folder = Path(place) / "archive" / "events"
    return sorted(each.name for each in folder.iterdir() if each.is_dir()) if folder.is_dir() else []


def _show(checks: list["ArchiveCheck"]) -> None:
    shown = table("source", "partition", "events", "missing", "twice", "digest")
    for check in checks:
        for partition, found in check.partitions.items():
            numbers: tuple[Any, ...] = (partition, found.rows, found.missing, found.doubled)
            shown.add_row(*plain(check.source, *map(str, numbers), found.digest[:12]))
    console.print(shown)
    for check in checks:
        for partition, found in check.partitions.items():
            for low, high in found.gaps:
                say(f"[red]{check.source}/{partition}: numbers {low} to {high - 1} are missing[/]")
            for seq in found.duplicates:
                say(f"[red]{check.source}/{partition}: number {seq} stands twice[/]")
            for seq in found.falling:
                say(f"[red]{check.source}/{partition}: the offset of number {seq} does not rise[/]")
        for partition in check.changed:
            say(f"[red]{check.source}/{partition}: events are no longer those of the earlier verification[/]")
    if all(check.ok for check in checks):
        say("[green]every number has its event[/]")


def _archive() -> None:
    """Every event that was ever applied, by number."""
