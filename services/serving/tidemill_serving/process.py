"""The parent of several workers: reserves the port, starts them, restarts what ends, and hands on the order to stop.

It is a small loop that imports nothing of what serves. Each worker is a serving process of its own: its folder, its
part of the log, its name in it. They share the port (the kernel deals connections out), the table of ids, and the
folder of sockets over which they ask each other how they are.
"""

import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from tidemill_serving.settings import Settings
from tidemill_serving.spare import Spare, run
from tidemill_serving.spool.ids import SharedIds, state_of

TICK_S, GRACE_S, STEADY_S = 0.05, 10.0, 30.0
FIRST_DELAY_S, LAST_DELAY_S = 0.1, 5.0
LOOK_EVERY_S, FROZEN_S, ASK_S = 2.0, 30.0, 0.2
REFUSED = 2
"""Exit code of a process whose settings are refused: to start it again would not help."""
_log = logging.getLogger(__name__)


def reserve(host: str, port: int) -> socket.socket:
    """A socket that has the port and does not listen: it stays with this instance while workers come and go."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind(address)
    return opened


@dataclass(slots=True)
class Worker:
    """One child and its restarts."""

    number: int
    environment: dict[str, str]
    child: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0
    delay_s: float = FIRST_DELAY_S
    began: float = 0.0
    due: float = 0.0
    heard: float = field(default_factory=time.monotonic)

    def start(self, now: float, spare: Spare) -> None:
        """Run it; after the first time it takes connections only when it is ready."""
        again = {"TIDEMILL_SERVING_AGAIN": "1"} if self.restarts else {}
        environment = self.environment | again
        self.child = spare.take(environment) or run(environment)
        self.began = self.heard = now

    def ended(self, now: float) -> int | None:
        """The exit code once it has ended: then it is due again after a delay that grows with quick ends."""
        if self.child is None or (code := self.child.poll()) is None:
            return None
        if now - self.began > STEADY_S:
            self.delay_s = FIRST_DELAY_S
        self.child, self.due = None, now + self.delay_s
        self.restarts, self.delay_s = self.restarts + 1, min(LAST_DELAY_S, self.delay_s * 2)
        return code


class Parent:
    """Runs the workers of one instance until it is told to stop."""

    def __init__(self, settings: Settings) -> None:
        """Take the port and prepare the workers; nothing runs yet. Raises OSError when the port is taken."""
        self._settings, self._stopping, self._looked = settings, False, 0.0
        self._port = reserve(settings.host, settings.port)
        self._folder = self._sockets()
        ids = SharedIds(settings.state)
        if ids.is_new:
            ids.fill(range(64))
        ids.close()
        self.workers = [Worker(number, self._environment(number)) for number in range(settings.count)]
        self.spare = Spare()

    def stop(self) -> None:
        """Safe in a signal handler."""
        self._stopping = True

    def run(self) -> int:
        """Until stopped; the exit code."""
        code = 0
        try:
            while not self._stopping:
                code = self._tick(time.monotonic())
                if code:
                    break
                time.sleep(TICK_S)
        finally:
            self._shut_down()
        return code

    def _tick(self, now: float) -> int:
        for worker in self.workers:
            code = worker.ended(now)
            if code == REFUSED and worker.restarts == 1:
                return code  # at its first start; later it is something that may pass
            if code is not None:
                _log.warning(
                    "worker %d ended with %d and starts again in %.1f s", worker.number, code, worker.due - now
                )
            if worker.child is None and now >= worker.due:
                worker.start(now, self.spare)
        if self._settings.spare and all(worker.child is not None for worker in self.workers):
            self.spare.keep(now, max(worker.began for worker in self.workers))
        if now - self._looked > LOOK_EVERY_S:
            self._looked = now
            for worker in self.workers:
                self._look(worker, now)
        return 0

    def _look(self, worker: Worker, now: float) -> None:
        """A worker that is stopped would keep its connections waiting for ever, and perhaps all others for the ids."""
        if worker.child is None:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(ASK_S)
            asking.connect(str(self._folder / f"{worker.number}.sock"))
            asking.sendall(b"ping\n")
            if asking.recv(16):
                worker.heard = now
        if now - worker.heard > FROZEN_S:
            _log.error("worker %d has not answered for %.0f s and is killed", worker.number, FROZEN_S)
            worker.child.kill()

    def _environment(self, number: int) -> dict[str, str]:
        settings, root = self._settings, self._settings.state
        instance = settings.instance if number == 0 else f"{settings.instance}-{number}"
        return os.environ | {
            "TIDEMILL_INSTANCE": instance, "TIDEMILL_STATE": str(state_of(root, number)),
            "TIDEMILL_PORT": str(self._port.getsockname()[1]), "TIDEMILL_SERVING_ROOT": str(root),
            "TIDEMILL_SERVING_WORKERS": str(settings.count), "TIDEMILL_SERVING_WORKER": str(number),
            "TIDEMILL_SERVING_SOCKETS": str(self._folder),
        }  # fmt: skip

    def _sockets(self) -> Path:
        """A folder with a short name (a socket's path has at most 107 bytes); that of a killed parent goes."""
        note = self._settings.state / "sockets.json"
        self._settings.state.mkdir(parents=True, exist_ok=True)
        with suppress(OSError, ValueError, KeyError, TypeError):
            before = Path(json.loads(note.read_bytes())["folder"])
            if before.name.startswith("tidemill-serving-"):
                shutil.rmtree(before, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix="tidemill-serving-"))
        note.write_text(json.dumps({"folder": str(folder)}), "utf-8")
        return folder

    def _shut_down(self) -> None:
        self.spare.end()
        running = [worker.child for worker in self.workers if worker.child is not None]
        for child in running:
            child.terminate()
        deadline = time.monotonic() + GRACE_S
        for child in running:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
        for child in running:
            if child.poll() is None:
                child.kill()
                child.wait()
        self._port.close()
        shutil.rmtree(self._folder, ignore_errors=True)


def supervise(settings: Settings) -> int:
    """Run the workers until SIGTERM or SIGINT; 0, or the exit code of settings that are refused."""
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        parent = Parent(settings)
    except OSError as error:
        _log.critical("%s:%d: %s", settings.host, settings.port, error.strerror)
        return REFUSED

    def stop(_number: int, _frame: FrameType | None) -> None:
        parent.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return parent.run()
