"""Somebody who follows a page of commands, and what it printed."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.client.transport import Endpoints
from tidemill.ledger.topics import Record, read_topic
from tidemill_contracts import topic
from tidemill_contracts.events import Event, decode
from tidemill_contracts.topics import Family
from tidemill_testkit.otlp import Receiver
from tidemill_testkit.readme import Block
from tidemill_testkit.traces import Traces


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

    def traces(self) -> Traces:
        """What has arrived until now."""
        return Traces(list(self.receiver.spans))

    def read(self, command: str) -> str:
        """What the block with this command printed."""
        [found] = [text for commands, text in self.said.items() if command in commands]
        return found

    def json(self, command: str) -> Any:  # noqa: ANN401 - what it printed
        """Follow a command that prints JSON."""
        self.follow(Block("sh", command))
        return json.loads(self.said[command])

    def records(self, family: Family, name: str | None = None) -> list[Record]:
        """Every record of a topic as of now."""

        async def read() -> list[Record]:
            found = read_topic(Endpoints.find(self.home).bootstrap(), topic(family, name))
            return [record async for record in found]

        return asyncio.run(read())

    def events(self, family: Family) -> list[Event]:
        """What they say."""
        return [decode(record.envelope) for record in self.records(family) if record.envelope is not None]
