import sys
from collections.abc import Iterator
from subprocess import run as run_process
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tidemill.cli.main import build


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - typer brings its own click
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
    else:
        for word, each in inner.items():
            yield from commands(each, f"{name} {word}".strip())


ALL = dict(commands(typer.main.get_command(build())))


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example(name: str) -> None:
    shown = CliRunner().invoke(build(), [*name.split(), "--help"])
    assert shown.exit_code == 0
    assert f"Example: tidemill {name}" in " ".join(shown.stdout.split())


def test_the_promised_commands_are_there() -> None:
    wanted = {
        "demo", "apply", "plan", "events send", "predict", "champion", "releases", "runs", "train", "promote",
        "rollback", "freeze", "unfreeze", "drift", "lineage", "audit verify", "ledger", "dlq list", "dlq show",
        "dlq replay", "parity", "features list", "features show", "quarantine list", "quarantine show",
        "quarantine release",
        "rollout", "canary", "shadow", "mix", "dataset build", "features backfill", "archive verify", "archive compact",
    }  # fmt: skip
    assert wanted <= set(ALL)
    options = {name: {option for p in command.params for option in p.opts} for name, command in ALL.items()}
    assert all({"--json", "--home"} <= options[name] for name in wanted)


def test_light_commands_import_no_numerical_library() -> None:
    code = (
        "import sys, tidemill; from tidemill.cli.main import build; build()\n"
        "print(sorted({'numba', 'numpy', 'pyarrow', 'aiokafka', 'httpx', 'tidemill_contracts'} & set(sys.modules)))"
    )
    done = run_process([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
