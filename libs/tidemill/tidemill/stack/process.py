"""One child process: started so that it cannot outlive its parent, stopped gently, then firmly."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom

from tidemill.stack.errors import StartFailedError

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_TAIL_LINES = 20
_POLL_S = 0.02
_untied: "list[subprocess.Popen[bytes]]" = []  # kept: a Popen that is dropped while it runs warns


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `env` is the whole environment; `user` is a uid to change to (only root may)."""

    name: str
    command: tuple[str, ...]
    log: Path
    env: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    stop_signal: signal.Signals = signal.SIGTERM
    user: int | None = None
    group: int | None = None


class Child:
    """A running (or ended) program."""

    def __init__(self, program: Program) -> None:
        """Prepare; nothing runs before `start`."""
        self.program = program
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, tied: bool = True) -> None:
        """Run the program with its output appended to its log.

        A tied child is stopped when this process ends, however that happens. Call from a thread that lives as long as
        the child should: the kernel ties it to that thread.

        Raises:
            StartFailedError: the executable cannot be run.
        """
        program = self.program
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            try:
                self._process = subprocess.Popen(
                    program.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=dict(program.env),
                    user=program.user,
                    group=program.group,
                    extra_groups=None if program.group is None else [program.group],
                    start_new_session=True,  # Ctrl-C in a terminal reaches the parent only
                    preexec_fn=_die_with(program.stop_signal, os.getpid()) if tied else None,  # noqa: PLW1509 - calls prctl only
                )
                if not tied:
                    _untied.append(self._process)
            except OSError as error:
                raise StartFailedError(f"{program.name}: cannot run {program.command[0]}: {error}") from error

    @property
    def pid(self) -> int | None:
        """The process id once started, also after its end."""
        return None if self._process is None else self._process.pid

    def exit_code(self) -> int | None:
        """The exit code (negative: the signal that ended it), or None while it runs or was never started."""
        return None if self._process is None else self._process.poll()

    def running(self) -> bool:
        """True between start and end."""
        return self._process is not None and self._process.poll() is None

    def ask_to_stop(self) -> None:
        """Send the program's stop signal and return at once."""
        if self._process is not None and self.running():
            self._process.send_signal(self.program.stop_signal)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end, then kill whatever is left; True if it ended by itself within `timeout_s`."""
        if self._process is None:
            return True
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """SIGKILL the child and everything it started in its session."""
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self, timeout_s: float = 10.0) -> bool:
        """Ask, wait, kill; True if asking was enough."""
        self.ask_to_stop()
        return self.wait(timeout_s)

    def tail(self) -> str:
        """The last lines of the log, for error messages."""
        return tail(self.program.log, _TAIL_LINES)

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Poll `ready` until it is true.

        Raises:
            StartFailedError: the child ended first, or the time was up; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            code = self.exit_code()
            if code is not None:
                raise StartFailedError(f"{self.program.name} ended with code {code} while starting\n{self.tail()}")
            if time.monotonic() > deadline:
                raise StartFailedError(f"{self.program.name} was not ready after {timeout_s:.0f} s\n{self.tail()}")
            time.sleep(_POLL_S)


def _die_with(stop_signal: signal.Signals, parent: int) -> Callable[[], None] | None:
    """A hook for the child that asks the kernel for `stop_signal` when the parent dies; Linux only.

    Elsewhere the next supervisor of the home ends what a killed one left behind.
    """
    if _LIBC is None:
        return None

    def hook() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0)
        if os.getppid() != parent:  # the parent died between fork and prctl
            os._exit(1)

    return hook


def tail(path: Path, lines: int) -> str:
    """The last `lines` lines of a text file; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 200 * lines))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except FileNotFoundError:
        return ""


def _ephemeral_range() -> tuple[int, int]:
    """The ports from which the kernel takes the local end of outgoing connections."""
    try:
        low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return 32768, 65535
    return int(low), int(high)


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """True if a server could listen there now (sockets in TIME_WAIT do not count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def free_port(preferred: int | None = None) -> int:
    """`preferred` if it is free, else a free port outside the ephemeral range.

    A server there finds its port free again after a restart: no outgoing connection can take it meanwhile.

    Raises:
        StartFailedError: no free port was found.
    """
    if preferred is not None and port_is_free(preferred):
        return preferred
    low, high = _ephemeral_range()
    usual = [*range(10_000, min(low, 65_536)), *range(high + 1, 65_536)]
    candidates: list[int] = usual or [*range(10_000, 65_536)]
    chosen: list[int] = SystemRandom().sample(candidates, min(200, len(candidates)))
    for port in chosen:
        if port_is_free(port):
            return port
    raise StartFailedError("no free TCP port found on 127.0.0.1")
