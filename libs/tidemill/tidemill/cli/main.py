"""The entry point: assembles the commands, and turns expected errors into one line and an exit code."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from tidemill.cli import (
    archive,
    data,
    dataset,
    demo,
    evidence,
    features,
    importing,
    letters,
    models,
    parity,
    pipelines,
    quarantine,
    rollout,
    stack,
)
from tidemill.cli.output import complain, say

_INTERRUPTED = 130
_GROUPS = (
    demo,
    stack,
    pipelines,
    data,
    letters,
    models,
    importing,
    rollout,
    evidence,
    parity,
    archive,
    dataset,
    features,
    quarantine,
)


def build() -> typer.Typer:
    """The application with every command."""
    app = typer.Typer(
        help="Keep machine-learning models good while the world moves.",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for group in _GROUPS:
        group.register(app)
    return app


def main() -> None:
    """Run the command line and exit: 0 done, 1 refused or failed, 2 wrong usage, 130 interrupted."""
    try:
        build()()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        if os.environ.get("TIDEMILL_DEBUG") or not isinstance(error, _expected()):
            raise
        complain(str(error) or type(error).__name__)
        sys.exit(1)


def _expected() -> tuple[type[Exception], ...]:
    """What a user can act on, shown in one line each; anything else is a fault of ours and keeps its trace."""
    from tidemill.client.errors import TidemillError  # noqa: PLC0415 - most commands end well and need none of these
    from tidemill.stack import StackError  # noqa: PLC0415 - see above
    from tidemill_contracts.pipeline import PipelineError  # noqa: PLC0415 - see above

    return (TidemillError, PipelineError, StackError, OSError)


def _version(wanted: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    if wanted:
        say(f"tidemill {version('tidemill')}")
        raise typer.Exit


def _root(
    shown: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of `tidemill` itself."""
    del shown  # its callback did the work
