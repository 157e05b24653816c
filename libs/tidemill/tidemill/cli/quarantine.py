"""`quarantine`: windows of a stream that broke a declared bound, and are kept from training."""

from typing import TYPE_CHECKING, Annotated

import typer

from tidemill.cli.connect import DetailOption, connected
from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, say, table

if TYPE_CHECKING:
    from tidemill.client.quarantine import QuarantinedWindow

NameArgument = Annotated[str, typer.Argument(help="The window's id.", metavar="ID")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    made = typer.Typer(help="Look at windows that are kept from training, and let them back.", no_args_is_help=True)
    made.command("list")(list_windows)
    made.command("show")(show)
    made.command("release")(release)
    app.add_typer(made, name="quarantine", rich_help_panel="Data")


def list_windows(
    source: Annotated[str | None, typer.Argument(help="A source; all if left out.")] = None,
    released: Annotated[bool, typer.Option("--all", help="Also those that were released.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many of the newest.")] = 50,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List quarantined windows, newest first.

    Example: [bold]tidemill quarantine list weather[/bold]
    """
    with connected(home) as client:
        found = client.quarantine(source, released=released, limit=limit)
    if as_json:
        emit([each.model_dump() for each in found])
        return
    shown = table("from (event time)", "source", "partition", "field", "rule", "measured", "bound", "rows", "numbers",
                  "released", "id")  # fmt: skip
    for each in found:
        facts = (each.window[0], each.source, str(each.partition), each.field, each.rule)
        measure = (f"{each.value:.4g}", f"{each.bound:.4g}", f"{each.rows:,}")
        shown.add_row(*plain(*facts, *measure, _numbers(each), "yes" if each.released else "", each.id))
    console.print(shown if found else "nothing is quarantined", markup=False)


def show(name: NameArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show one window with the exact numbers of its events.

    Example: [bold]tidemill quarantine show 2c7d1a3e-8f1b-5f55-9c1d-0a4b6f0e7a11[/bold]
    """
    with connected(home) as client:
        found = client.quarantined(name)
    if as_json:
        emit(found.model_dump())
        return
    ranges = ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in found.ranges)
    facts = {key: str(value) for key, value in found.model_dump().items() if key not in {"ranges", "window"}}
    facts |= {"window": " to ".join(found.window), "numbers": ranges or "none"}
    for key, value in facts.items():
        console.print(f"{key:<16} {value}", markup=False, highlight=False, soft_wrap=True)


def release(
    name: NameArgument, detail: DetailOption = "", home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Let a window's rows train again: every training that is asked for afterwards uses them.

    Example: [bold]tidemill quarantine release 2c7d1a3e-8f1b-5f55-9c1d-0a4b6f0e7a11 --detail "sensor was right"[/bold]
    """
    with connected(home) as client:
        found = client.release_quarantined(name, detail=detail)
    if as_json:
        emit(found.model_dump())
    else:
        say(f"[bold]{found.id}[/bold] is released: {found.rows:,} events of {found.source}")


def _numbers(window: "QuarantinedWindow") -> str:
    return f"{window.ranges[0][0]} to {window.ranges[-1][1]}" if window.ranges else ""
