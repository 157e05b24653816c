"""Start, watch, disturb and stop a home's stack from another process: the CLI, the demo, and tests of recovery."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tidemill.stack.errors import AlreadyRunningError, NotRunningError, StartFailedError
from tidemill.stack.files import FAILED, Endpoints, MemoryReport, Plan, Process, Service, read_endpoints, write
from tidemill.stack.lock import holder
from tidemill.stack.paths import Home
from tidemill.stack.probes import ask
from tidemill.stack.process import Child, Program, tail

_START_S, _STOP_S = 300.0, 30.0
_POLL_S = 0.05
_GIVE_UP_AFTER = 5
Watch = Callable[[Endpoints], None]


class Stack:
    """One home's stack, run by a supervisor of its own.

    As a context manager it ends with the block, and with this process however that ends. `start(detached=True)` leaves
    it running after this process.
    """

    def __init__(self, home: Path | None = None, *, services: Sequence[Service] | None = None) -> None:
        """Name the home (None: the default one) and what to run there (None: the six services)."""
        self.home = Home.at(home)
        self._plan = Plan.default() if services is None else Plan(services=tuple(services))
        self._supervisor: Child | None = None

    def start(self, *, detached: bool = False, timeout_s: float = _START_S, watch: Watch | None = None) -> Endpoints:
        """Run the supervisor and wait until everything has been ready once. `watch` is told of every change.

        Raises:
            AlreadyRunningError: another supervisor holds the home.
            StartFailedError: a process keeps ending, or the time is up; nothing is left running.
        """
        pid = holder(self.home)
        if pid is not None:
            raise AlreadyRunningError(f"{self.home.root} is already in use by process {pid}")
        self.home.create()
        write(self.home.plan, self._plan)
        command = (sys.executable, "-m", "tidemill.stack.supervisor", str(self.home.root))
        self._supervisor = Child(Program(name="supervisor", command=command, log=self.home.log("supervisor")))
        self._supervisor.start(tied=not detached)
        try:
            return self._watch(timeout_s, watch or _nobody)
        except BaseException:
            self._supervisor.stop(_STOP_S)
            raise

    def endpoints(self) -> Endpoints:
        """Where everything is now.

        Raises:
            NotRunningError: no supervisor holds the home.
        """
        pid, seen = holder(self.home), read_endpoints(self.home)
        if pid is None or seen is None or seen.supervisor != pid:
            raise NotRunningError(f"nothing runs in {self.home.root}")
        return seen

    def memory(self) -> MemoryReport:
        """Memory by process, as last sampled (every other second); also after the stack was stopped."""
        try:
            return MemoryReport.model_validate_json(self.home.memory.read_bytes())
        except (OSError, ValueError):
            return MemoryReport()

    def process(self, name: str) -> Process:
        """One process by name (`kafka`, `postgres` or a service).

        Raises:
            NotRunningError: the stack does not run, or has no such process.
        """
        found = self.endpoints().processes.get(name)
        if found is None:
            raise NotRunningError(f"no process named {name} in {self.home.root}")
        return found

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a process and return its pid: SIGKILL it, or freeze it with SIGSTOP and SIGCONT.

        Raises:
            NotRunningError: it does not run at the moment.
        """
        pid = self.process(name).pid
        if pid is None:
            raise NotRunningError(f"{name} does not run at the moment")
        try:
            os.kill(pid, number)
        except ProcessLookupError as error:
            raise NotRunningError(f"{name} does not run at the moment") from error
        return pid

    def kill(self, name: str, *, timeout_s: float = 60.0) -> Process:
        """SIGKILL a process and wait until its successor is ready.

        Raises:
            NotRunningError: it does not run at the moment.
            StartFailedError: the successor was not ready in time; the message has the end of its log.
        """
        before = self.send(name, signal.SIGKILL)
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            after = self.process(name)
            if after.state == "ready" and after.pid != before:
                return after
            time.sleep(_POLL_S)
        raise StartFailedError(f"{name} was not back after {timeout_s:.0f} s\n{tail(self.home.log(name), 20)}")

    def stop(self) -> None:
        """Stop everything in order and wait for the end.

        Raises:
            NotRunningError: no supervisor holds the home.
            StartFailedError: the supervisor is still there after half a minute.
        """
        if self._supervisor is not None and self._supervisor.running():
            self._supervisor.stop(_STOP_S)
            return
        pid = holder(self.home)
        if pid is None:
            raise NotRunningError(f"nothing runs in {self.home.root}")
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_S
        while holder(self.home) == pid:
            if time.monotonic() > deadline:
                raise StartFailedError(f"process {pid} did not stop within {_STOP_S:.0f} s")
            time.sleep(_POLL_S)

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def _watch(self, timeout_s: float, tell: Watch) -> Endpoints:
        deadline, last = time.monotonic() + timeout_s, None
        while True:
            seen = self._seen()
            if seen is not None and seen != last:
                tell(seen)
                last = seen
            if seen is not None and seen.ready:
                return seen
            self._give_up(seen, late=time.monotonic() > deadline)
            time.sleep(_POLL_S)

    def _seen(self) -> Endpoints | None:
        seen = read_endpoints(self.home)
        mine = self._supervisor.pid if self._supervisor else None
        return seen if seen is not None and seen.supervisor == mine else None

    def _give_up(self, seen: Endpoints | None, *, late: bool) -> None:
        """Raise if waiting longer is pointless."""
        if self._supervisor is not None and not self._supervisor.running():
            said = self._supervisor.tail().rpartition(f"\n{FAILED}")[2]
            raise StartFailedError(said or "the supervisor ended without a word")
        for name, process in seen.processes.items() if seen else ():
            if process.state != "ready" and (late or process.restarts >= _GIVE_UP_AFTER):
                why = self._why(process, name)
                raise StartFailedError(f"{name} is {process.state} after {process.restarts} restarts\n{why}")
        if late:
            raise StartFailedError(f"the stack was not ready in time\n{tail(self.home.log('supervisor'), 20)}")

    def _why(self, process: Process, name: str) -> str:
        said = ask(f"{process.url}/readyz")[1] if process.url and process.state == "starting" else ""
        return "\n".join(filter(None, (said, tail(self.home.log(name), 20))))


def _nobody(_seen: Endpoints) -> None:
    """Watch nothing."""
