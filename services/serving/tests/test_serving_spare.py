"""The process that stands by: ready or not, it becomes the worker that is missing, or nothing of it is left."""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tidemill_runtime.priorities import SHORT_NS, turn_ns
from tidemill_serving.spare import AFTER_S, Spare
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
LATER = 2 * AFTER_S


@pytest.fixture
def spare() -> Iterator[Spare]:
    made = Spare()
    yield made
    made.end()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def started(spare: Spare) -> psutil.Process:
    spare.keep(LATER, 0.0)
    assert spare.pid is not None
    return psutil.Process(spare.pid)


def test_none_is_started_beside_a_worker_that_is_being_started(spare: Spare) -> None:
    spare.keep(100.0, 100.0 - AFTER_S / 2)
    assert spare.pid is None
    assert spare.take({}) is None


def test_one_that_is_not_ready_takes_no_place_and_is_gone(spare: Spare) -> None:
    process = started(spare)
    assert not spare.is_ready
    assert spare.take({}) is None
    assert not process.is_running()
    assert spare.pid is None


async def test_one_that_is_ready_goes_on_as_the_worker_it_is_told_to_be(spare: Spare, tmp_path: Path) -> None:
    process, port = started(spare), free_port()
    await until(lambda: spare.is_ready, "the spare is ready", timeout_s=60)
    spare.keep(2 * LATER, 0.0)
    assert spare.pid == process.pid  # one is enough
    assert not process.net_connections("tcp")
    child = spare.take({
        "TIDEMILL_PORT": str(port), "TIDEMILL_HOST": "127.0.0.1", "TIDEMILL_STATE": str(tmp_path / "state"),
        "TIDEMILL_ARTIFACTS": str(tmp_path / "artifacts"), "TIDEMILL_KAFKA": "127.0.0.1:1",
        "TIDEMILL_POSTGRES": "postgresql://nobody@127.0.0.1:1/nothing",
    })  # fmt: skip
    assert child is not None
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def lives() -> bool:
                assert child.poll() is None
                try:
                    return (await client.get("/livez")).status_code == httpx.codes.OK
                except httpx.TransportError:
                    return False

            await until(lives, "the worker answers", timeout_s=60)
        assert child.pid == process.pid
        assert process.nice() == psutil.Process().nice()  # its imports' priority was that of a thread which has ended
        assert turn_ns(process.pid) in {SHORT_NS, 0, None}  # of its loop; an older kernel tells nothing
    finally:
        child.kill()
        child.wait()


async def test_one_that_has_ended_is_followed_by_another_in_time(spare: Spare) -> None:
    process = started(spare)
    process.kill()
    await until(lambda: process.status() == psutil.STATUS_ZOMBIE, "it has ended", timeout_s=60)
    spare.keep(LATER + AFTER_S / 2, 0.0)
    assert spare.pid == process.pid  # not at once
    spare.keep(LATER + 2 * AFTER_S, 0.0)
    assert spare.pid not in {None, process.pid}
    assert not process.is_running()
