"""The parent of several workers: restarts with a growing delay, ends what stands still, keeps the port."""

import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill_serving import spare
from tidemill_serving.process import FIRST_DELAY_S, FROZEN_S, LAST_DELAY_S, REFUSED, STEADY_S, Parent, reserve
from tidemill_serving.settings import Settings
from tidemill_testkit.waiting import until_sync


def settings(folder: Path, workers: int = 2) -> Settings:
    values = {"kafka": "127.0.0.1:1", "postgres": "-", "artifacts": "-", "state": folder, "workers": workers}
    return Settings.model_validate(values)


def program(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """What runs in place of a worker."""
    monkeypatch.setattr(spare, "COMMAND", (sys.executable, "-c", code))


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    opened = Parent(settings(tmp_path))
    yield opened
    opened._shut_down()


def ended(parent: Parent) -> None:
    """Wait until every child has ended by itself."""
    for worker in parent.workers:
        if worker.child is not None:
            worker.child.wait(30)


def test_what_ends_is_started_again_ever_later(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "raise SystemExit(1)")
    now, delays = 0.0, []
    for _ in range(9):
        assert parent._tick(now) == 0
        ended(parent)
        before = parent.workers[0].restarts
        assert parent._tick(now) == 0
        assert parent.workers[0].restarts == before + 1
        assert parent.workers[0].child is None, "not before its time"
        delays.append(parent.workers[0].due - now)
        now = parent.workers[0].due
    assert delays == pytest.approx([min(LAST_DELAY_S, FIRST_DELAY_S * 2**count) for count in range(9)])
    parent._tick(now)
    ended(parent)
    assert parent._tick(now + STEADY_S + 1) == 0
    assert parent.workers[0].due == pytest.approx(now + STEADY_S + 1 + FIRST_DELAY_S), "it had run well for a while"


def test_refused_settings_end_all(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        monkeypatch, f"import os; raise SystemExit({REFUSED} if os.environ['TIDEMILL_SERVING_WORKER'] == '1' else 0)"
    )
    assert parent.run() == REFUSED
    assert all(worker.child is None or worker.child.poll() is not None for worker in parent.workers)


def test_a_worker_that_stands_still_is_killed(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "import time; time.sleep(600)")
    parent._tick(0.0)
    child = parent.workers[1].child
    assert child is not None
    parent._look(parent.workers[1], FROZEN_S - 1)
    assert child.poll() is None
    parent._look(parent.workers[1], FROZEN_S + 1)
    assert child.wait(30) == -signal.SIGKILL


def test_an_answer_is_a_sign_of_life(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    answering = (
        "import os, socket; s = socket.socket(socket.AF_UNIX); "
        "s.bind(os.environ['TIDEMILL_SERVING_SOCKETS'] + '/' + os.environ['TIDEMILL_SERVING_WORKER'] + '.sock'); "
        "s.listen()\nwhile True:\n    c, _ = s.accept(); c.recv(16); c.sendall(b'pong\\n'); c.close()"
    )
    program(monkeypatch, answering)
    parent._tick(0.0)
    worker = parent.workers[0]

    def heard() -> bool:
        parent._look(worker, 5.0)
        return worker.heard == 5.0

    until_sync(heard, "it answers", timeout_s=30)
    parent._look(worker, FROZEN_S + 4)
    assert worker.child is not None
    assert worker.child.poll() is None


def test_the_port_stays_with_the_instance_and_workers_share_it(parent: Parent) -> None:
    port = int(parent.workers[0].environment["TIDEMILL_PORT"])
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))
    with reserve("127.0.0.1", port) as one, reserve("127.0.0.1", port) as other:
        one.listen()
        other.listen()
        with socket.create_connection(("127.0.0.1", port)):
            pass
    assert {worker.environment["TIDEMILL_STATE"] for worker in parent.workers} == {
        str(parent._settings.state), str(parent._settings.state / "workers" / "1"),
    }  # fmt: skip
    assert parent.workers[1].environment["TIDEMILL_INSTANCE"] == "0-1"


def test_the_sockets_of_a_killed_parent_go_with_the_next(tmp_path: Path) -> None:
    first = Parent(settings(tmp_path))
    left = first._folder
    (left / "0.sock").touch()
    second = Parent(settings(tmp_path))
    assert not left.exists()
    assert second._folder.exists()
    for each in (first, second):
        each._shut_down()
    assert not second._folder.exists()
