"""`apply` and `plan`: pipeline files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from tidemill.cli.connect import TAKEN_S, connected, wait_for
from tidemill.cli.output import HomeOption, JsonOption, emit, say

if TYPE_CHECKING:
    from tidemill.difference import Difference

FileArgument = Annotated[Path, typer.Argument(help="The pipeline file.", exists=True, dir_okay=False, metavar="FILE")]
_MARKS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}
_LONGEST = 60


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Pipelines")(apply)
    app.command(rich_help_panel="Pipelines")(plan)


def apply(
    file: FileArgument,
    wait: Annotated[bool, typer.Option("--wait", help="Return once events and requests are taken.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Apply a pipeline file: every service takes it up from there. The same file again changes nothing.

    Example: [bold]tidemill apply pipelines/flight-delay.yaml[/bold]
    """
    from tidemill_contracts.pipeline import load_pipeline  # noqa: PLC0415 - `--help` needs no contracts

    spec = load_pipeline(file)
    with connected(home) as client:
        applied = client.apply(spec)
        if wait:
            wait_for(lambda: client.is_known(spec), f"every service knows {spec.name}", timeout_s=TAKEN_S)
    if as_json:
        emit(applied.model_dump())
    else:
        say(f"[bold]{applied.pipeline}[/bold] revision {applied.revision}, digest {applied.digest[:12]}")


def plan(file: FileArgument, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show what applying a pipeline file would change, without changing anything.

    Example: [bold]tidemill plan pipelines/flight-delay.yaml[/bold]
    """
    from tidemill.client import calls  # noqa: PLC0415 - `--help` needs no HTTP
    from tidemill.difference import difference  # noqa: PLC0415 - see above
    from tidemill_contracts.pipeline import PipelineSpec, load_pipeline  # noqa: PLC0415 - see above

    spec = load_pipeline(file)
    with connected(home) as client:
        standing = client.run(calls.or_none(calls.pipeline(spec.name)))
    before = None if standing is None else PipelineSpec.of(standing.spec)
    found = difference(before, spec)
    if as_json:
        emit({"pipeline": spec.name, **found.to_json()})
    else:
        _print(spec.name, found)


def _print(name: str, found: "Difference") -> None:
    if not found.changes:
        say(f"[bold]{name}[/bold]: nothing would change")
        return
    if found.before is None:
        say(f"[bold]{name}[/bold] is new: {len(found.fields)} fields, {len(found.views)} views")
    else:
        for path, (change, before, after) in found.fields.items():
            mark, style = _MARKS[change]
            values = [_short(value) for value in (before, after)]
            text = " -> ".join(values) if change == "changed" else values[change == "added"]
            say(f"[{style}]{mark} {escape(path)}: {escape(text)}[/]")
        for view, change in found.views.items():
            say(f"view [bold]{view}[/bold]: {_VIEWS[change]}")
    say(f"digest {'none' if found.before is None else found.before[:12]} -> {found.after[:12]}")


_VIEWS = {
    "added": "is new and computed from the events to come",
    "removed": "is no longer computed",
    "changed": "gets a new version: its values are computed anew",
}


def _short(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
