"""`dlq`: dead letters, the records that could not be processed."""

import base64
from typing import Annotated

import typer

from tidemill.cli.connect import connected
from tidemill.cli.output import HomeOption, JsonOption, console, emit, plain, say, table

TopicArgument = Annotated[str, typer.Argument(help="The topic, or its dead-letter topic.")]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="How many of the newest.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    letters = typer.Typer(help="Look at records that could not be processed, and put them back.", no_args_is_help=True)
    letters.command("list")(list_letters)
    letters.command("show")(show)
    letters.command("replay")(replay)
    app.add_typer(letters, name="dlq", rich_help_panel="Data")


def list_letters(
    topic: Annotated[str | None, typer.Argument(help="A topic; the raw topics of all sources if left out.")] = None,
    limit: LimitOption = 50,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the newest dead letters.

    Example: [bold]tidemill dlq list tidemill.raw.arrivals.v1[/bold]
    """
    with connected(home) as client:
        found = client.letters(topic, limit=limit)
    if as_json:
        emit([letter.model_dump() for letter in found])
        return
    shown = table("topic", "partition", "offset", "reason", "error", "put back")
    for each in found:
        back = str(each.replays or "")
        shown.add_row(*plain(each.topic, str(each.partition), str(each.offset), each.reason, each.error[:60], back))
    console.print(shown if found else "no dead letters", markup=False)


def show(
    topic: TopicArgument, partition: int, offset: int, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show one dead letter with its headers and bytes.

    Example: [bold]tidemill dlq show tidemill.raw.arrivals.v1 0 17[/bold]
    """
    with connected(home) as client:
        found = client.letter(topic, partition, offset)
    if as_json:
        emit(found.model_dump())
        return
    facts = {"reason": found.reason, "error": found.error, "at": found.at or "", **found.headers}
    facts |= {"key": _text(found.key_base64), "value": _text(found.value_base64)}
    for name, value in facts.items():
        console.print(f"{name:<16} {value}", markup=False, highlight=False, soft_wrap=True)


def replay(  # noqa: PLR0913 - the options of a command
    topic: TopicArgument,
    place: Annotated[
        tuple[int, int] | None, typer.Option("--at", help="Partition and offset of one letter.", show_default=False)
    ] = None,
    limit: LimitOption = 100,
    force: Annotated[bool, typer.Option("--force", help="Also those that were put back before.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put dead letters back where they were: one (--at), or the newest that were not put back yet.

    Example: [bold]tidemill dlq replay tidemill.raw.arrivals.v1 --at 0 17[/bold]
    """
    with connected(home) as client:
        found = client.replay(topic, place=place, limit=limit, force=force)
    if as_json:
        emit(found.model_dump())
    else:
        say(f"{len(found.replayed)} put back, {found.skipped} left out")


def _text(encoded: str | None) -> str:
    return "" if encoded is None else base64.b64decode(encoded).decode("utf-8", "replace")
