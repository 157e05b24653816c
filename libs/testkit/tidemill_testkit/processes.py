"""Real processes that tests kill and freeze: a kill inside one's own process proves nothing about files and sockets."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


class Worker:
    """A Python module as a child process with its own environment."""

    def __init__(self, module: str, *arguments: str, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen([sys.executable, "-m", module, *arguments], env={**os.environ, **env})

    def kill(self) -> None:
        """SIGKILL, at whatever instruction it is; returns when it is gone."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def terminate(self, timeout_s: float = 10.0) -> int:
        """SIGTERM; returns the exit status, raises subprocess.TimeoutExpired."""
        self._process.terminate()
        return self._process.wait(timeout_s)

    def wait(self, timeout_s: float = 30.0) -> int:
        """The exit status: negative for a signal; raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    @property
    def running(self) -> bool:
        return self._process.poll() is None


@contextmanager
def worker(module: str, *arguments: str, env: Mapping[str, str]) -> Iterator[Worker]:
    """A worker that is gone at the end of the block, whatever happened in it."""
    child = Worker(module, *arguments, env=env)
    try:
        yield child
    finally:
        if child.running:
            child.kill()
