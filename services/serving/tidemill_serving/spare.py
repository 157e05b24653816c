"""One process more than works: it has imported what serving needs, and becomes the worker whose process has ended.

Imports are most of a worker's start, seconds of processor time in which the others answer for it as well. A spare takes
that time beforehand, in a thread of the lowest priority, and then holds no port, no file of the instance and no model.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress

VARIABLE = "TIDEMILL_SERVING_SPARE"
"""The file descriptor over which a spare says that it is ready, and is told which worker it is to be."""
AFTER_S = 3.0
"""After the last start of anything: a spare is not to be imported beside a worker that is being started."""
NICE = 19
_READY = b"."
COMMAND = (sys.executable, "-m", "tidemill_serving")
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def run(variables: Mapping[str, str], handed: tuple[int, ...] = ()) -> "subprocess.Popen[bytes]":
    """A serving process with variables beside our own, and with file descriptors that it inherits."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        COMMAND,
        env=os.environ | variables,
        pass_fds=handed,
        preexec_fn=_tied(os.getpid()),  # noqa: PLW1509 - calls prctl only
    )


def _tied(parent: int) -> Callable[[], None] | None:
    """A hook that ends the child with its parent, however that ends; Linux only."""
    if _libc is None:
        return None
    libc = _libc

    def hook() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return hook


class Spare:
    """At most one, of the parent's children."""

    def __init__(self) -> None:
        """Nothing is started before `keep`."""
        self._due = 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """Of its process."""
        return None if self._child is None else self._child.pid

    @property
    def is_ready(self) -> bool:
        """Whether `take` will have one."""
        if self._child is None or self._line is None or self._child.poll() is not None:
            return False
        with suppress(OSError):  # nothing to read yet
            return self._line.recv(1, socket.MSG_PEEK) == _READY
        return False

    def keep(self, now: float, busy_until: float) -> None:
        """Have one, but not before nobody is being started any more, and not again at once when it has ended."""
        is_there = self._child is not None and self._child.poll() is None
        if is_there or now < max(self._due, busy_until + AFTER_S):
            return
        self.end()
        ours, theirs = socket.socketpair()
        with theirs:
            self._child = run({VARIABLE: str(theirs.fileno())}, (theirs.fileno(),))
        ours.settimeout(0.0)
        self._line, self._due = ours, now + AFTER_S

    def take(self, environment: Mapping[str, str]) -> "subprocess.Popen[bytes] | None":
        """The process, which goes on as a worker of this environment; None when there is none that is ready."""
        child, line = self._child, self._line
        if self.is_ready and line is not None:
            with suppress(OSError):  # it has just ended
                line.recv(1)  # what is left unread would break the line when it is closed
                line.sendall(json.dumps(dict(environment)).encode())
                line.close()
                self._child = self._line = None
                return child
        self.end()
        return None

    def end(self) -> None:
        """Kill and reap it."""
        child, line = self._child, self._line
        self._child = self._line = None
        if line is not None:
            line.close()
        if child is not None:
            child.kill()
            child.wait()


def stand_by(prepare: Callable[[], object]) -> None:
    """Prepare, wait until a worker is missing, and take its environment; the process ends when its parent does."""
    with socket.socket(fileno=int(os.environ.pop(VARIABLE))) as line:
        failed = _in_the_background(prepare)
        if failed is not None:
            raise failed
        line.sendall(_READY)
        said = b"".join(iter(lambda: line.recv(65_536), b""))
    if not said:
        sys.exit(0)
    os.environ.update(json.loads(said))


def _in_the_background(prepare: Callable[[], object]) -> BaseException | None:
    """Priorities are of threads and cannot be raised again without a privilege: the main thread keeps its own."""
    failed: list[BaseException] = []

    def work() -> None:
        with suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            prepare()
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return failed[0] if failed else None
