"""The files through which a supervisor and everybody else talk: what to run, what runs, what it needs in memory."""

import os
import sys
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from tidemill.stack.paths import Home

SERVICES = ("ingestion", "features", "registry", "trainer", "monitoring", "serving")

FAILED = "cannot run: "  # before the reason, at the end of the supervisor's log

State = Literal["waiting", "starting", "ready", "backing off", "stopped"]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Service(_File):
    """One service to run: its command, and the path that answers 200 once it is ready."""

    name: str
    command: tuple[str, ...]
    ready: str = "/readyz"


class Plan(_File):
    """What a supervisor runs, in the order of starting."""

    services: tuple[Service, ...]

    @classmethod
    def default(cls) -> "Plan":
        """The six services of Tidemill, run by this interpreter."""
        commands = {name: (sys.executable, "-m", f"tidemill_{name}") for name in SERVICES}
        return cls(services=tuple(Service(name=name, command=command) for name, command in commands.items()))


class Process(_File):
    """One process as last seen. `started` is its creation time in seconds since the epoch: pids are used again."""

    pid: int | None = None
    started: float | None = None
    state: State = "waiting"
    restarts: int = 0
    url: str | None = None


class Endpoints(_File):
    """Where everything is. `ready` turns true once all of it has been ready, and stays true through restarts."""

    kafka: str
    postgres: str
    artifacts: str
    supervisor: int
    ready: bool = False
    servers: dict[str, Process] = {}
    services: dict[str, Process] = {}

    @property
    def processes(self) -> dict[str, Process]:
        """Servers and services by name."""
        return {**self.servers, **self.services}


class MemoryUse(_File):
    """Resident memory of a process with its children, in MiB; `samples` are (seconds since start, MiB)."""

    peak_mib: float = 0.0
    now_mib: float = 0.0
    samples: list[tuple[float, float]] = []


class MemoryReport(_File):
    """`peak_mib` is the highest sum over all processes at one moment, not the sum of their peaks."""

    peak_mib: float = 0.0
    processes: dict[str, MemoryUse] = {}


def write(path: Path, content: BaseModel) -> None:
    """Replace a file as a whole: a reader sees the old one or the new one, never half of either."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_text(content.model_dump_json(indent=1), encoding="utf-8")
    draft.replace(path)


def read_endpoints(home: Home) -> Endpoints | None:
    """The endpoints file; None if there is none that can be read."""
    try:
        return Endpoints.model_validate_json(home.endpoints.read_bytes())
    except (OSError, ValueError):
        return None
