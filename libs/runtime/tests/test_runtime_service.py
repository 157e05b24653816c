import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tidemill_testkit.waiting import until_sync

PROGRAM = """
import asyncio, gc, os, sys
from tidemill_runtime.http import Route
from tidemill_runtime.service import Service, run
from tidemill_runtime.settings import ServiceSettings
from starlette.responses import Response

async def slow(request):
    open(os.environ["MARK"] + ".slow", "w").close()
    await asyncio.sleep(0.5)
    return Response(f"done, young {gc.get_threshold()}")

async def work():
    open(os.environ["MARK"], "w").write("started")
    try:
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(0.1)
        open(os.environ["MARK"], "w").write("flushed")

async def crash():
    await asyncio.sleep(0.2)
    raise KeyError("broken")

async def end():
    return

async def stubborn():
    while True:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            pass

async def leaning():
    try:
        await asyncio.sleep(1000)
    finally:
        await asyncio.sleep(0.3)
        found = open(os.environ["MARK"]).read()
        open(os.environ["MARK"] + ".leaning", "w").write(found)

def create(settings, health):
    extra = {name: globals()[name] for name in sys.argv[1:]}
    route = Route(method="GET", path="/slow", endpoint=slow, summary="Slow")
    return Service(routes=[route], background={"work": work, **extra}, young=2000)

run(create, ServiceSettings(service="probe"))
"""


@contextmanager
def program(folder: Path, *arguments: str, port: int, host: str = "127.0.0.1") -> Iterator[subprocess.Popen[str]]:
    env = {
        "TIDEMILL_KAFKA": "127.0.0.1:1", "TIDEMILL_POSTGRES": "postgresql:///none", "TIDEMILL_ARTIFACTS": str(folder),
        "TIDEMILL_STATE": str(folder), "TIDEMILL_PORT": str(port), "TIDEMILL_HOST": host,
        "MARK": str(folder / "mark"), "PATH": "/usr/bin:/bin",
    }  # fmt: skip
    child = subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], env=env, stderr=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def spoken(child: "subprocess.Popen[str]") -> list[dict[str, str]]:
    _, text = child.communicate(timeout=20)
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_flushes_and_exits_zero(tmp_path: Path, free_port: int, number: signal.Signals) -> None:
    with program(tmp_path, port=free_port) as child, ThreadPoolExecutor(1) as pool:
        until_sync(lambda: answers(free_port), "the service is ready")
        request = pool.submit(httpx.get, f"http://127.0.0.1:{free_port}/slow")
        until_sync((tmp_path / "mark.slow").exists, "the slow request is under way")
        child.send_signal(number)
        assert request.result(5).text == "done, young (2000, 500, 50)"
        assert child.wait(60) == 0
        assert (tmp_path / "mark").read_text() == "flushed"
        assert spoken(child) == []


@pytest.mark.parametrize("how", ["crash", "end"])
def test_background_that_ends_takes_the_process_down_after_a_flush(tmp_path: Path, free_port: int, how: str) -> None:
    with program(tmp_path, how, port=free_port) as child:
        assert child.wait(60) == 1
        assert (tmp_path / "mark").read_text() == "flushed"
        assert [line["message"] for line in spoken(child)] == [f"background {how} ended"]


def test_background_that_will_not_stop_does_not_hold_the_exit(tmp_path: Path, free_port: int) -> None:
    with program(tmp_path, "stubborn", port=free_port) as child:
        until_sync(lambda: answers(free_port), "the service is ready")
        child.terminate()
        assert child.wait(60) == 0, "what is stubborn would stay for ever"
        assert "stubborn" in spoken(child)[0]["message"]
        assert (tmp_path / "mark").read_text() == "flushed"


def test_what_started_last_stops_first_and_in_peace(tmp_path: Path, free_port: int) -> None:
    with program(tmp_path, "leaning", port=free_port) as child:
        until_sync(lambda: answers(free_port), "the service is ready")
        child.terminate()
        assert child.wait(60) == 0
        assert (tmp_path / "mark.leaning").read_text() == "started"


def test_an_open_server_without_a_key_does_not_start(tmp_path: Path, free_port: int) -> None:
    with program(tmp_path, port=free_port, host="0.0.0.0") as child:
        assert child.wait(60) == 2
        [line] = spoken(child)
        assert "TIDEMILL_API_KEY" in line["message"]
