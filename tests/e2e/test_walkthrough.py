"""What the README promises to a stranger, and what one trace shows: on one real stack that its commands start."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tidemill_testkit.otlp import Receiver, otlp_receiver
from tidemill_testkit.readme import Block, blocks_of

ROOT = Path(__file__).parents[2]
HEADING = "Your own pipeline in ten minutes"
START, STOP = "tidemill up", "tidemill down"
pytestmark = [pytest.mark.timeout(300)]


@dataclass
class Reader:
    """Somebody who follows the README in an empty folder; `said` is what each block of commands printed."""

    folder: Path
    receiver: Receiver
    said: dict[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def follow(self, block: Block) -> None:
        """Write the file, or run the commands; a command that fails ends it."""
        if block.file is not None:
            (self.folder / "here" / block.file).write_text(block.text)
            return
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        told = {"PATH": path, "TIDEMILL_HOME": str(self.home), "OTEL_EXPORTER_OTLP_ENDPOINT": self.receiver.endpoint}
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text], cwd=self.folder / "here", env={**os.environ, **told},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}"
        self.said[block.text] = done.stdout

    def read(self, command: str) -> str:
        """What the block with this command printed."""
        [found] = [text for commands, text in self.said.items() if command in commands]
        return found


@pytest.fixture(scope="module")
def blocks() -> list[Block]:
    """The README's blocks, from the one that starts the stack to the one that stops it."""
    found = blocks_of((ROOT / "README.md").read_text(), HEADING)
    assert START in found[0].text
    assert STOP in found[-1].text
    return found


@pytest.fixture(scope="module")
def reader(blocks: list[Block]) -> Iterator[Reader]:
    """Has started the stack, and stops it at the end, both as the README says it; spans go to a receiver."""
    folder = Path(tempfile.mkdtemp(prefix="tm-"))  # short, and not pytest's own: Postgres has an account of its own
    (folder / "here").mkdir()
    with otlp_receiver() as receiver:
        one = Reader(folder, receiver)
        try:
            one.follow(blocks[0])
            yield one
        finally:
            one.follow(blocks[-1])
            shutil.rmtree(folder, ignore_errors=True)


def test_a_stranger_follows_the_readme(reader: Reader, blocks: list[Block]) -> None:
    """Its files and commands, in order, do what it says about them."""
    for block in blocks[1:-1]:
        reader.follow(block)
    assert "card-fraud revision 1" in reader.read("tidemill apply")
    assert reader.read("history.py").count("6,000 events are on the log") == 3
    trained = reader.read("tidemill train")
    assert "version 1 is released and answers as epoch 1" in trained
    assert "first" in trained
    [answer] = json.loads((reader.folder / "here" / "answer.json").read_text())
    assert answer["epoch"] == 1
    assert 0.3 < answer["score"] < 0.8
    assert answer["defaulted"] == []
    lineage = reader.read("tidemill lineage")
    for part in ("release  epoch 1", "model  version 1", "cause  cold_start", "view card-payments  c7", "up to event"):
        assert part in lineage
    accounts = reader.read("tidemill ledger")
    assert "every count adds up" in accounts
    assert re.search(r"12,001 +accepted", accounts)
    assert "the chain holds" in accounts
