import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tidemill.stack.control import Stack
from tidemill.stack.environment import Addresses, service_environment
from tidemill.stack.errors import StackError
from tidemill.stack.files import Endpoints, Process
from tidemill.stack.logs import rotate
from tidemill.stack.managed import LONGEST_DELAY_S, STABLE_S, Managed
from tidemill.stack.memory import MemorySampler
from tidemill.stack.paths import Home, default_home
from tidemill.stack.probes import answers, ask
from tidemill.stack.process import Child, Program, free_port, port_is_free


class Unwilling(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b"no topics")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def unwilling() -> Iterator[str]:
    """The address of a service that is never ready, and says why."""
    with HTTPServer(("127.0.0.1", 0), Unwilling) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_probe_tells_what_was_answered(unwilling: str) -> None:
    assert ask(f"{unwilling}/readyz") == (False, "no topics")
    assert not answers(f"http://127.0.0.1:{free_port()}/readyz")


def test_a_start_that_takes_too_long_names_the_service_and_its_reason(unwilling: str, tmp_path: Path) -> None:
    seen = Endpoints(
        kafka="",
        postgres="",
        artifacts="",
        supervisor=1,
        services={"fine": Process(state="ready"), "features": Process(state="starting", url=unwilling)},
    )
    stack = Stack(tmp_path)
    stack._give_up(seen, late=False)
    with pytest.raises(StackError, match=r"features is starting after 0 restarts\nno topics"):
        stack._give_up(seen, late=True)


def test_a_log_is_rotated_by_size_and_only_so_many_are_kept(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    for number in range(5):
        log.write_text(f"{number}" * 11)
        assert rotate(log, max_bytes=10, keep=2)
    assert (log.read_text(), Path(f"{log}.1").read_text()[0], Path(f"{log}.2").read_text()[0]) == ("", "4", "3")
    assert not Path(f"{log}.3").exists()
    assert not rotate(log, max_bytes=10)


def test_memory_history_is_bounded_and_keeps_the_peak() -> None:
    sampler = MemorySampler()
    for number in range(2000):
        sampler.sample({"a": float(number % 700), "b": 1.0})
    report = sampler.report()
    assert report.processes["a"].peak_mib == 699.0
    assert report.peak_mib == 700.0
    assert 64 < len(report.processes["a"].samples) < 256


def state(managed: Managed) -> str:
    return managed.state


def test_delays_grow_to_a_limit_and_are_forgotten_after_a_stable_time(tmp_path: Path) -> None:
    program = Program(name="p", command=("/bin/sleep", "60"), log=tmp_path / "p.log")
    managed = Managed("p", lambda: program, lambda: True)
    delays = []
    now = 1000.0
    for _ in range(9):
        managed.tick(now)
        assert state(managed) == "starting"
        assert managed.child is not None
        managed.child.kill()
        managed.tick(now)
        began = now
        while state(managed) == "backing off":
            now += 0.05
            managed.tick(now)
        delays.append(now - began)
        managed.child.kill()
        managed.state = "backing off"  # due at once: the next failure follows the one before
    assert delays == sorted(delays)
    assert delays[0] < 0.2
    assert delays[-1] == pytest.approx(LONGEST_DELAY_S, abs=0.1)
    managed.tick(now)  # starts
    managed.tick(now)  # ready
    managed.tick(now + STABLE_S)
    assert managed.child is not None
    managed.child.kill()
    managed.tick(now + STABLE_S)
    managed.tick(now + STABLE_S + 0.11)
    assert state(managed) == "starting"
    managed.stop()
    managed.child.stop()


def test_a_child_that_cannot_run_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="lost: cannot run /no/such/program"):
        Child(Program(name="lost", command=("/no/such/program",), log=tmp_path / "x.log")).start()


def test_a_preferred_port_is_kept_if_free() -> None:
    port = free_port()
    assert port_is_free(port)
    assert free_port(port) == port


def test_the_home_is_named_by_option_then_environment_then_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_HOME", str(tmp_path))
    assert Home.at().root == tmp_path
    assert Home.at(tmp_path / "other").root == tmp_path / "other"
    monkeypatch.delenv("TIDEMILL_HOME")
    assert default_home().name == "tidemill"


def test_bytecode_goes_to_the_cache_where_none_may_lie_beside_the_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    given = Home.at(tmp_path), "features", 1, Addresses(kafka="k", postgres="p", artifacts="a")
    assert "PYTHONPYCACHEPREFIX" not in service_environment(*given)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    told = service_environment(*given)
    assert (told["PYTHONDONTWRITEBYTECODE"], told["PYTHONPYCACHEPREFIX"]) == ("", str(tmp_path / "cache" / "bytecode"))
