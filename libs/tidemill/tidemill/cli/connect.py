"""How commands reach a stack."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from tidemill.client.clients import Client

PATIENCE_S = 10.0
"""A person waits shorter than a program."""
TAKEN_S, TRAINED_S = 60.0, 1800.0
"""How long `--wait` waits: for services to take something up, for a training."""
_PAUSE_S = 0.1
T = TypeVar("T")

AtOption = Annotated[
    str | None, typer.Option("--at", help="Event time, RFC 3339.", show_default="where the stream stands")
]
DetailOption = Annotated[str, typer.Option("--detail", help="Why, for the history.")]
EpochOption = Annotated[
    int | None, typer.Option("--expected-epoch", help="Refuse if another release came first.", min=0)
]
PipelineArgument = Annotated[str, typer.Argument(help="The pipeline's name.")]


@contextmanager
def connected(home: Path | None) -> Iterator["Client"]:
    """A client of the stack in a home, or of the services that the environment names."""
    from tidemill.client.clients import Client  # noqa: PLC0415 - `--help` needs no HTTP

    with Client(home, patience_s=PATIENCE_S) as client:
        yield client


def wait_for(condition: Callable[[], T | None], what: str, *, timeout_s: float) -> T:
    """Poll until there is something; raises TidemillError naming it after `timeout_s` seconds."""
    from tidemill.client.errors import TidemillError  # noqa: PLC0415 - see connected

    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TidemillError(f"not within {timeout_s:.0f} s: {what}")
        time.sleep(_PAUSE_S)
    return found


def instant(us: int | None) -> str:
    """An event time for a table; nothing for none."""
    from tidemill_contracts import format_time  # noqa: PLC0415 - `--help` needs no contracts

    return "" if us is None else format_time(us)
