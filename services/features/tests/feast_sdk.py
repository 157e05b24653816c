"""Feast's SDK in its own environment, driven from here."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tidemill_testkit.peers import PeerError, peer

FEAST = ("feast==0.67.0", "httpx==0.28.1")  # httpx: for the test client of its server
DRIVER = Path(__file__).with_name("feast_driver.py")


@cache
def python() -> Path:
    """Of Feast's environment; skips the test where that cannot be made."""
    try:
        return peer("feast", *FEAST)
    except PeerError as error:
        pytest.skip(f"{FEAST[0]} cannot be installed: {error}")


class Sdk:
    """One repository of Feast in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def tell(self, line: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        """One line there, one line back."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(line) + "\n")
        stdin.flush()
        answer = stdout.readline()
        assert answer, "Feast's process has ended"
        return json.loads(answer)

    def do(self, name: str, **step: object) -> Any:  # noqa: ANN401 - JSON
        """What a step gives."""
        found = self.tell({"do": name, **step})
        assert "answer" in found, found
        return found["answer"]

    def fails(self, name: str, **step: object) -> str:
        """The class of what a step raises."""
        found = self.tell({"do": name, **step})
        assert "error" in found, found
        return str(found["error"])


@contextmanager
def sdk(what: Mapping[str, Any]) -> Iterator[Sdk]:
    """The SDK on a repository with these definitions, see `feast_driver.py`."""
    command = [str(python()), str(DRIVER)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = Sdk(process)
            found.tell(what)
            yield found
        finally:
            process.kill()
