"""`parity`: what was served is what the archive gives."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tidemill.cli.connect import connected
from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, say, table

if TYPE_CHECKING:
    from tidemill_engine.parity import Mismatch, Parity


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Evidence")(parity)


def parity(
    pipeline: Annotated[str, typer.Option("--pipeline", help="The pipeline's name.")],
    since: Annotated[str, typer.Option("--since", help="How far back from the newest prediction: 1h, 7d.")] = "1h",
    whole: Annotated[bool, typer.Option("--all", help="Every prediction in the log.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compute logged vectors again from the archive and compare every bit; exit code 1 if one differs.

    Example: [bold]tidemill parity --pipeline flight-delay --since 1h[/bold]
    """
    from tidemill.client.clients import AsyncClient  # noqa: PLC0415 - numerical libraries, which `--help` need not load
    from tidemill.parity import read_parity  # noqa: PLC0415 - see above
    from tidemill_contracts import parse_duration  # noqa: PLC0415 - see above

    try:
        since_us = None if whole else parse_duration(since)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    with connected(home) as client:
        mine = client.transport

    async def read() -> "Parity":
        async with AsyncClient(endpoints=mine.endpoints, api_key=mine.api_key, patience_s=mine.patience_s) as client:
            return await read_parity(client, pipeline, since_us=since_us)

    found = asyncio.run(read())
    if as_json:
        emit(asdict(found))
    else:
        _show(found)
    if found.mismatches:
        raise typer.Exit(1)


def _show(found: "Parity") -> None:
    if found.first:
        shown = table("at (event time)", "view", "entity", "feature", "logged", "computed", "since event")
        for each in found.first:
            shown.add_row(*plain(*_cells(each)))
        console.print(shown)
    for name, count in sorted(found.features.items()):
        say(f"{name}: {count:,} differ")
    if found.unknown:
        say(f"{found.unknown:,} were answered by releases whose pipeline file is not known any more")
    colour = "red" if found.mismatches else "green"
    say(f"[{colour}]{found.checked:,} vectors with {found.values:,} values checked, {found.mismatches:,} differ[/]")


def _cells(each: "Mismatch") -> tuple[str, ...]:
    from tidemill_contracts import format_time  # noqa: PLC0415 - `--help` needs no contracts

    since: Any = each.since
    event = "" if since is None else f"events.{since.source}/{since.partition} offset {since.offset} ({since.id})"
    return (
        format_time(each.at_us),
        each.view,
        each.entity,
        each.feature,
        repr(each.logged),
        repr(each.computed),
        event,
    )
