"""How commands speak: tables for people, JSON for programs, one line for errors."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPED_COLUMNS = 240
_LONG = frozenset({"request", "prediction", "event", "error", "detail"})
console = Console(width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
errors = Console(stderr=True)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar="TIDEMILL_HOME", help="Where this stack lives.", show_default="your data directory"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def emit(value: object) -> None:
    """Print a JSON value, unstyled and unwrapped, whatever the terminal is."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Print a sentence; Rich markup is understood."""
    console.print(text, highlight=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print an error to standard error; text from elsewhere is not taken for markup."""
    errors.print("error:", style="bold red", end=" ")
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def table(*columns: str) -> Table:
    """An empty table in the house's look."""
    made = Table(box=None, header_style="dim", pad_edge=False)
    for column in columns:
        made.add_column(column, no_wrap=column not in _LONG, overflow="fold")  # an id is never cut off
    return made


def plain(*cells: str) -> tuple[Text, ...]:
    """Cells of a table with text from elsewhere, which is not taken for markup."""
    return tuple(Text(cell) for cell in cells)
