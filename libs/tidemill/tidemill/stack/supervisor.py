"""The one process that runs a home's stack: `python -m tidemill.stack.supervisor HOME`.

It starts Kafka and Postgres together, then the services in order, two at a time, as those before become ready, restarts
whatever ends, and stops everything when told to. It is a single loop that never waits; everybody else learns from the
files it writes.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

from tidemill.stack.environment import Addresses, External, service_environment
from tidemill.stack.errors import StackError
from tidemill.stack.files import FAILED, Endpoints, Plan, Process, Service, read_endpoints, write
from tidemill.stack.kafka import LocalKafka
from tidemill.stack.lock import held
from tidemill.stack.logs import rotate
from tidemill.stack.managed import Managed, end_leftovers
from tidemill.stack.memory import MemorySampler, own_mib, tree_mib
from tidemill.stack.paths import Home
from tidemill.stack.postgres import LocalPostgres
from tidemill.stack.probes import answers
from tidemill.stack.process import Program, free_port

_TICK_S, _SAMPLE_S, _ROTATE_S = 0.05, 2.0, 10.0
_GRACE_S = 10.0
_AT_ONCE = 2
"""Services that may be on their way at the start: one alone keeps a core busy, more would wait for each other."""
_log = logging.getLogger("tidemill.stack")


class Supervisor:
    """Runs one home until `request_stop` or a signal."""

    def __init__(self, home: Home, plan: Plan, external: External) -> None:
        """Choose addresses: those of the last run where they are still free. Nothing runs yet."""
        self._home = home
        self._last = read_endpoints(home)
        self._stopping = False
        self._complete = False
        self._written: Endpoints | None = None
        self._memory = MemorySampler()
        self._servers = list(self._make_servers(external))
        self._services = [self._make_service(service) for service in plan.services]

    def request_stop(self) -> None:
        """End `run` soon; safe in a signal handler."""
        self._stopping = True

    def run(self) -> None:
        """Run until asked to stop.

        Raises:
            StackError: something cannot be started at all (a missing program, no jars); everything else was stopped.
        """
        end_leftovers(self._last)
        sample_at = rotate_at = 0.0
        try:
            while not self._stopping:
                now = time.monotonic()
                self._tick(now)
                if now >= sample_at:
                    sample_at = now + _SAMPLE_S
                    self._sample()
                if now >= rotate_at:
                    rotate_at = now + _ROTATE_S
                    self._rotate()
                time.sleep(_TICK_S)
        finally:
            self._shut_down()

    def _make_servers(self, external: External) -> Iterator[Managed]:
        home, last = self._home, self._last
        kafka, postgres = external.kafka, external.postgres
        if kafka is None:
            broker = LocalKafka(home.kafka, port=_port(last.kafka if last else None), log=home.log("kafka"))
            kafka = broker.bootstrap
            yield Managed("kafka", broker.prepare, broker.ready)
        if postgres is None:
            database = LocalPostgres(home.postgres, log=home.log("postgres"))
            postgres = database.dsn
            yield Managed("postgres", database.prepare, database.ready)
        self._shared = Addresses(kafka, postgres, external.artifacts or str(home.artifacts))

    def _make_service(self, service: Service) -> Managed:
        before = self._last.services.get(service.name) if self._last else None
        port = free_port(_port(before.url if before else None))
        url = f"http://127.0.0.1:{port}"
        prepare = partial(self._program, service, port)
        return Managed(service.name, prepare, partial(answers, url + service.ready), url=url)

    def _program(self, service: Service, port: int) -> Program:
        self._home.state(service.name).mkdir(parents=True, exist_ok=True)
        environment = service_environment(self._home, service.name, port, self._shared)
        log = self._home.log(service.name)
        return Program(name=service.name, command=service.command, log=log, env=environment)

    def _tick(self, now: float) -> None:
        for stage, room in ((self._servers, len(self._servers)), (self._services, _AT_ONCE)):
            waiting = 0
            for managed in stage:
                managed.tick(now)
                waiting += managed.state != "ready"
                if not self._complete and waiting >= max(1, room):
                    break  # the first time round, each waits for those before it
            if not self._complete and waiting:
                break
        else:
            self._complete = True
        self._publish()

    def _publish(self) -> None:
        seen = Endpoints(
            kafka=self._shared.kafka,
            postgres=self._shared.postgres,
            artifacts=self._shared.artifacts,
            supervisor=os.getpid(),
            ready=self._complete and not self._stopping,
            servers={managed.name: managed.seen() for managed in self._servers},
            services={managed.name: managed.seen() for managed in self._services},
        )
        if seen != self._written:
            self._log_changes(seen)
            write(self._home.endpoints, seen)
            self._written = seen

    def _log_changes(self, seen: Endpoints) -> None:
        before = self._written.processes if self._written else {}
        for name, process in seen.processes.items():
            if before.get(name, Process()).state != process.state:
                _log.info("%s: %s (pid %s, restarts %d)", name, process.state, process.pid, process.restarts)

    def _sample(self) -> None:
        pids = {managed.name: managed.seen().pid for managed in self._everything()}
        used = {name: tree_mib(pid) for name, pid in pids.items() if pid is not None}
        self._memory.sample({"supervisor": own_mib(), **used})
        write(self._home.memory, self._memory.report())

    def _rotate(self) -> None:
        for name in ("supervisor", *(managed.name for managed in self._everything())):
            rotate(self._home.log(name))

    def _everything(self) -> list[Managed]:
        return [*self._servers, *self._services]

    def _shut_down(self) -> None:
        """Services first, all at once, then what they stand on: each has ten seconds before it is killed."""
        self._stopping = True
        for group in (self._services, self._servers):
            for managed in group:
                managed.stop()
            deadline = time.monotonic() + _GRACE_S
            for managed in group:
                if managed.child is not None and not managed.child.wait(max(0.0, deadline - time.monotonic())):
                    _log.warning("%s did not stop within %.0f s and was killed", managed.name, _GRACE_S)
            self._publish()


def _port(address: str | None) -> int | None:
    """The port at the end of `host:port` or a URL."""
    try:
        return int(address.rpartition(":")[2]) if address else None
    except ValueError:
        return None


def main(arguments: list[str]) -> int:
    """Run the home named on the command line; 1 with one line on standard error if that is impossible."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    home = Home.at(Path(arguments[0]))
    home.create()
    try:
        with held(home):
            plan = Plan.model_validate_json(home.plan.read_bytes()) if home.plan.exists() else Plan.default()
            supervisor = Supervisor(home, plan, External.from_environment())
            _on_signals(supervisor.request_stop)
            supervisor.run()
    except StackError as error:
        sys.stderr.write(f"\n{FAILED}{error}\n")
        return 1
    return 0


def _on_signals(stop: Callable[[], None]) -> None:
    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, handle)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
