import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from tidemill.stack import AlreadyRunningError, Home, NotRunningError, Process, Service, Stack, StartFailedError
from tidemill.stack.files import Endpoints, read_endpoints
from tidemill.stack.managed import created, end_leftovers

# A service in miniature: it notes its start and its stop, answers /readyz, and ends when asked to over HTTP.
STAND_IN = """
import http.server, json, os, pathlib, signal, sys, time
state = pathlib.Path(os.environ["TIDEMILL_STATE"])
def note(name):
    with (state / name).open("a") as file:
        file.write(f"{time.time()}\\n")
def leave(*_):
    note("stopped")
    os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if "--stubborn" in sys.argv else leave)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/crash":
            os._exit(7)
        note("asked")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(os.environ)).encode())
    def log_message(self, *_):
        pass
note("started")
http.server.HTTPServer((os.environ["TIDEMILL_HOST"], int(os.environ["TIDEMILL_PORT"])), Handler).serve_forever()
"""


def stand_in(name: str, *arguments: str) -> Service:
    return Service(name=name, command=(sys.executable, "-S", "-c", STAND_IN, *arguments))


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


@pytest.fixture
def home() -> Iterator[Path]:
    with TemporaryDirectory(prefix="tm-") as folder:
        yield Path(folder) / "home"


@pytest.fixture
def no_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kafka and Postgres are somebody else's: only the services are run."""
    monkeypatch.setenv("TIDEMILL_KAFKA", "kafka.example:9092")
    monkeypatch.setenv("TIDEMILL_POSTGRES", "postgresql://postgres.example/db")
    monkeypatch.delenv("TIDEMILL_ARTIFACTS", raising=False)


def test_services_start_in_order_two_at_a_time(home: Path, no_servers: None) -> None:
    names = ("first", "second", "third")
    with Stack(home, services=[stand_in(name) for name in names]):
        noted = {name: [_first(home / "state" / name / what) for what in ("started", "asked")] for name in names}
    assert noted["first"][0] < noted["third"][0]
    assert noted["third"][0] >= min(noted["first"][1], noted["second"][1])


def _first(path: Path) -> float:
    return float(path.read_text().split()[0])


def test_services_are_told_where_everything_is(home: Path, no_servers: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector.example:4318")
    with Stack(home, services=[stand_in("first"), stand_in("second")]) as stack:
        seen = stack.endpoints()
        told = json.loads(get(f"{seen.services['second'].url}/readyz"))
    assert told["TIDEMILL_KAFKA"] == seen.kafka == "kafka.example:9092"
    assert told["TIDEMILL_POSTGRES"] == seen.postgres == "postgresql://postgres.example/db"
    assert told["TIDEMILL_ARTIFACTS"] == seen.artifacts == str(home / "artifacts")
    assert told["TIDEMILL_ENDPOINTS"] == str(home / "endpoints.json")
    assert told["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.example:4318"
    assert told["OMP_NUM_THREADS"] == "1"


def test_stopping_is_gentle_and_leaves_nothing_behind(home: Path, no_servers: None) -> None:
    with Stack(home, services=[stand_in("only")]) as stack:
        pid = stack.process("only").pid
    assert (home / "state" / "only" / "stopped").exists()
    assert pid is not None
    assert not psutil.pid_exists(pid)
    with pytest.raises(NotRunningError):
        stack.endpoints()


def test_a_service_that_ends_comes_back_on_the_same_port(home: Path, no_servers: None) -> None:
    with Stack(home, services=[stand_in("only")]) as stack:
        before = stack.process("only")
        with pytest.raises(OSError, match=r"closed|reset"):
            get(f"{before.url}/crash")
        eventually(lambda: stack.process("only").restarts == 1 and stack.process("only").state == "ready")
        after = stack.process("only")
        assert (after.url, after.state) == (before.url, "ready")
        assert after.pid != before.pid


def test_a_killed_service_comes_back(home: Path, no_servers: None) -> None:
    with Stack(home, services=[stand_in("only")]) as stack:
        before = stack.process("only")
        after = stack.kill("only")
        assert after.url == before.url
        assert get(f"{after.url}/readyz")


def test_a_second_run_uses_the_ports_of_the_first(home: Path, no_servers: None) -> None:
    urls = []
    for _ in range(2):
        with Stack(home, services=[stand_in("a"), stand_in("b")]) as stack:
            urls.append({name: process.url for name, process in stack.endpoints().services.items()})
    assert urls[0] == urls[1]


def test_a_home_has_one_supervisor(home: Path, no_servers: None) -> None:
    with Stack(home, services=[stand_in("only")]) as stack:
        with pytest.raises(AlreadyRunningError, match=f"in use by process {stack.endpoints().supervisor}"):
            Stack(home).start()
        assert stack.endpoints().ready


def test_a_service_that_cannot_start_is_reported_with_the_end_of_its_log(home: Path, no_servers: None) -> None:
    broken = Service(name="broken", command=(sys.executable, "-c", "raise SystemExit('no such luck')"))
    with pytest.raises(StartFailedError, match=r"(?s)broken is .* after \d restarts.*no such luck"):
        Stack(home, services=[stand_in("fine"), broken]).start()
    seen = read_endpoints(Home.at(home))
    assert seen is not None
    assert {name: process.state for name, process in seen.services.items()} == {"fine": "stopped", "broken": "stopped"}


def test_a_missing_program_is_reported(home: Path, no_servers: None) -> None:
    with pytest.raises(StartFailedError, match=r"^lost: cannot run /no/such/program"):
        Stack(home, services=[Service(name="lost", command=("/no/such/program",))]).start()


def test_services_do_not_outlive_a_killed_supervisor(home: Path, no_servers: None) -> None:
    stack = Stack(home, services=[stand_in("only")])
    seen = stack.start()
    os.kill(seen.supervisor, signal.SIGKILL)
    pid = seen.services["only"].pid
    assert pid is not None
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    with pytest.raises(NotRunningError):
        stack.stop()
    with Stack(home, services=[stand_in("only")]) as again:
        assert again.endpoints().services["only"].url == seen.services["only"].url


def test_leftovers_are_ended_only_if_pid_and_creation_time_agree() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command) as left, subprocess.Popen(command) as other:
        left_at, other_at = created(left.pid), created(other.pid)
        assert other_at is not None
        services = {
            "left": Process(pid=left.pid, started=left_at, state="ready"),
            "other": Process(pid=other.pid, started=other_at - 100, state="ready"),  # the pid was used again
        }
        end_leftovers(Endpoints(kafka="", postgres="", artifacts="", supervisor=1, services=services))
        alive = other.poll() is None
        other.kill()
    assert alive
    assert not psutil.pid_exists(left.pid)


def test_memory_is_sampled_with_children(home: Path, no_servers: None) -> None:
    hold = "x = b'1' * (64 << 20); input()"
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {hold!r}], stdin=subprocess.PIPE)"
    service = Service(name="parent", command=(sys.executable, "-c", f"{child}\n{STAND_IN}"))
    with Stack(home, services=[service]) as stack:
        eventually(lambda: stack.memory().processes.get("parent") is not None)
        eventually(lambda: stack.memory().processes["parent"].peak_mib > 64)
        report = stack.memory()
    assert report.processes["supervisor"].now_mib < 64
    assert report.peak_mib >= report.processes["parent"].peak_mib


@pytest.mark.slow
def test_a_service_that_ignores_the_request_is_killed_after_ten_seconds(home: Path, no_servers: None) -> None:
    stack = Stack(home, services=[stand_in("stubborn", "--stubborn")])
    pid = stack.start().services["stubborn"].pid
    began = time.monotonic()
    stack.stop()
    assert 9 < time.monotonic() - began < 60
    assert pid is not None
    assert not psutil.pid_exists(pid)


def test_kafka_and_postgres_come_along_and_come_back(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TIDEMILL_KAFKA", "TIDEMILL_POSTGRES"):
        monkeypatch.delenv(name, raising=False)
    with Stack(home, services=[stand_in("only")]) as stack:
        before = stack.endpoints()
        for server in ("postgres", "kafka"):
            assert stack.kill(server).restarts >= 1
        after = stack.endpoints()
    assert (after.kafka, after.postgres) == (before.kafka, before.postgres)
    assert after.services["only"].restarts == 0
