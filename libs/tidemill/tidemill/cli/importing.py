"""`import`: plain ONNX models."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tidemill.cli.connect import TAKEN_S, connected, wait_for
from tidemill.cli.output import HomeOption, JsonOption, emit, say

if TYPE_CHECKING:
    from tidemill.client.clients import Client
    from tidemill.client.imports import ImportedModel, ServedModel

FileArgument = Annotated[Path, typer.Argument(help="The ONNX file.", exists=True, dir_okay=False, metavar="FILE")]
_DECIDED = frozenset({"READY", "UNAVAILABLE"})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import", rich_help_panel="Models")(import_model)


def import_model(  # noqa: PLR0913 - the options of a command
    file: FileArgument,
    name: Annotated[str, typer.Option("--name", help="What it is asked for by.")],
    version: Annotated[int | None, typer.Option(min=1, help="Its version.", show_default="the next one")] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Return once serving has opened it.")] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Import an ONNX model: serving opens it and answers for it by the Open Inference Protocol, under its own names.

    The same bytes again change nothing. Exit code 1 if serving does not take it.

    Example: [bold]tidemill import model.onnx --name mnist[/bold]
    """
    with connected(home) as client:
        made = client.import_model(name, file.read_bytes(), version=version)
        served = _await(client, made) if wait else None
    if as_json:
        state = {} if served is None else {"state": served.state, "reason": served.reason}
        emit(made.model_dump() | state)
    else:
        text = "" if served is None else f": {served.state.lower()} {escape(served.reason)}"
        said = "" if made.created else " (known before)"
        say(f"[bold]{made.model}[/bold] version {made.version}{said}, digest {made.digest[:12]}{text}")
    if served is not None and served.state != "READY":
        raise typer.Exit(1)


def _await(client: "Client", made: "ImportedModel") -> "ServedModel":
    def decided() -> "ServedModel | None":
        wanted = made.model, str(made.version)
        found = [each for each in client.served_models() if (each.name, each.version) == wanted]
        return found[0] if found and found[0].state in _DECIDED else None

    return wait_for(decided, f"serving has opened {made.model} version {made.version}", timeout_s=TAKEN_S)
