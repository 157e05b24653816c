"""One process under supervision: when to start it, when it counts as ready, when to try again."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from tidemill.stack.files import Endpoints, Process, State
from tidemill.stack.process import Child, Program

FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 10.0
STABLE_S = 30.0


@dataclass(slots=True)
class Managed:
    """A process and its history. `tick` is all there is to it: it never waits."""

    name: str
    prepare: Callable[[], Program]
    is_ready: Callable[[], bool]
    url: str | None = None
    state: State = "waiting"
    restarts: int = 0
    child: Child | None = field(default=None)
    _failures: int = 0
    _due: float = 0.0
    _ready_since: float = 0.0
    _started: float | None = None

    def tick(self, now: float) -> None:
        """Start, look, restart: whatever is due at `now` (monotonic seconds).

        Raises:
            StackError: it cannot be prepared or run at all.
        """
        if self.state in {"starting", "ready"} and not self._alive():
            self._fell(now)
        elif self.state == "starting" and self.is_ready():
            self.state, self._ready_since = "ready", now
        elif self.state == "ready" and self._failures and now - self._ready_since >= STABLE_S:
            self._failures = 0
        elif (self.state == "backing off" and now >= self._due) or self.state == "waiting":
            self._start()

    def seen(self) -> Process:
        """For the endpoints file."""
        pid = self.child.pid if self.child is not None and self._alive() else None
        started = self._started if pid else None
        return Process(pid=pid, started=started, state=self.state, restarts=self.restarts, url=self.url)

    def stop(self) -> None:
        """Ask it to stop and never start it again; `Child.wait` sees it out."""
        self.state = "stopped"
        if self.child is not None:
            self.child.ask_to_stop()

    def _alive(self) -> bool:
        return self.child is not None and self.child.running()

    def _start(self) -> None:
        if self.child is None:
            self.child = Child(self.prepare())
        self.child.start()
        self.state = "starting"
        self._started = created(self.child.pid)

    def _fell(self, now: float) -> None:
        if self.child is not None:
            self.child.kill()  # what it started must not live on: the next one opens the same files
        self.restarts += 1
        self._due = now + min(LONGEST_DELAY_S, FIRST_DELAY_S * 2**self._failures)
        self._failures += 1
        self.state = "backing off"


def created(pid: int | None) -> float | None:
    """The creation time of a process, in seconds since the epoch; None if there is no such process."""
    try:
        return None if pid is None else psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def end_leftovers(last: Endpoints | None, grace_s: float = 10.0) -> None:
    """End what a killed supervisor left behind: processes with the recorded pid and the recorded creation time."""
    left = []
    for process in last.processes.values() if last else ():
        if process.pid is not None and process.started is not None and created(process.pid) == process.started:
            with suppress(psutil.NoSuchProcess):
                left.append(psutil.Process(process.pid))
    for process_left in left:
        with suppress(psutil.NoSuchProcess):
            process_left.terminate()
    _, alive = psutil.wait_procs(left, timeout=grace_s)
    for process_left in alive:
        with suppress(psutil.NoSuchProcess):
            process_left.kill()
