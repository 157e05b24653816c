"""Where the embedded stack keeps its state (one home per stack) and what it shares between homes (the cache)."""

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

APP = "tidemill"


def default_home() -> Path:
    """`TIDEMILL_HOME` if set, else the user's data directory."""
    return Path(os.environ.get("TIDEMILL_HOME") or platformdirs.user_data_dir(APP)).expanduser()


def cache_dir() -> Path:
    """`TIDEMILL_CACHE` if set, else the user's cache directory: jars and compiled code, shared by all homes."""
    return Path(os.environ.get("TIDEMILL_CACHE") or platformdirs.user_cache_dir(APP)).expanduser()


@dataclass(frozen=True, slots=True)
class Home:
    """The layout of one home directory. Nothing here touches the disk except `create`."""

    root: Path

    @classmethod
    def at(cls, root: Path | None = None) -> "Home":
        """The home at `root`, or the default one; always absolute."""
        return cls((root or default_home()).expanduser().absolute())

    def create(self) -> None:
        """Make the directories; harmless when they exist."""
        for path in (self.root, self.logs, self.artifacts, self.root / "state"):
            path.mkdir(parents=True, exist_ok=True)
        self.marker.touch()

    def state(self, service: str) -> Path:
        """A service's own directory: spools, last good release."""
        return self.root / "state" / service

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self.logs / f"{name}.log"

    @property
    def marker(self) -> Path:
        """Says that this directory is a home, so that `reset` never deletes anything else."""
        return self.root / ".tidemill-home"

    @property
    def logs(self) -> Path:
        """One file per process."""
        return self.root / "logs"

    @property
    def artifacts(self) -> Path:
        """Models and archives, unless `TIDEMILL_ARTIFACTS` points elsewhere."""
        return self.root / "artifacts"

    @property
    def kafka(self) -> Path:
        """The embedded broker's data."""
        return self.root / "kafka"

    @property
    def postgres(self) -> Path:
        """The embedded database's data."""
        return self.root / "postgres"

    @property
    def endpoints(self) -> Path:
        """Addresses, pids and states of everything that runs, replaced atomically."""
        return self.root / "endpoints.json"

    @property
    def memory(self) -> Path:
        """Memory of each process over time, replaced atomically."""
        return self.root / "memory.json"

    @property
    def plan(self) -> Path:
        """What the supervisor was told to run."""
        return self.root / "plan.json"

    @property
    def lock(self) -> Path:
        """Held by the one supervisor of this home; its content is that supervisor's pid."""
        return self.root / "supervisor.lock"
