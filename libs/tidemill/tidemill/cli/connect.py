"""How commands reach a stack."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tidemill.client.clients import Client

PATIENCE_S = 10.0
"""A person waits shorter than a program."""

AtOption = Annotated[
    str | None, typer.Option("--at", help="Event time, RFC 3339.", show_default="where the stream stands")
]
DetailOption = Annotated[str, typer.Option("--detail", help="Why, for the history.")]
PipelineArgument = Annotated[str, typer.Argument(help="The pipeline's name.")]


@contextmanager
def connected(home: Path | None) -> Iterator["Client"]:
    """A client of the stack in a home, or of the services that the environment names."""
    from tidemill.client.clients import Client  # noqa: PLC0415 - `--help` needs no HTTP

    with Client(home, patience_s=PATIENCE_S) as client:
        yield client


def instant(us: int | None) -> str:
    """An event time for a table; nothing for none."""
    from tidemill_contracts import format_time  # noqa: PLC0415 - `--help` needs no contracts

    return "" if us is None else format_time(us)
