"""What was answered is in the topic exactly once: under kills, without the broker, without Postgres, on a full disk."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from serving_cases import inputs, pipeline
from serving_load import Load, begin, check_log
from serving_stack import Stack, open_stack, until

from tidemill.stack import LocalKafka

KILLS = int(os.environ.get("TIDEMILL_CHAOS_KILLS", "50"))
OUTAGE_S = float(os.environ.get("TIDEMILL_CHAOS_OUTAGE_S", "60"))
DISK_KIB = 2048
AT_LEAST = 128 * 1024
"""In the spool, so that shipping it makes room for more than its reserve."""
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200)]
SPEC = pipeline()
SEED = 11


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The service's folder on a file system of its own with 2 MiB."""
    folder = tmp_path / "state"
    folder.mkdir()
    program = shutil.which("mount")
    size = f"size={DISK_KIB}k"
    command = [program or "mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)]
    if program is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here: not root, or not allowed")
    assert folder.is_mount()
    yield folder
    subprocess.run([shutil.which("umount") or "umount", "-l", str(folder)], check=True)


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, small_disk: Path) -> AsyncIterator[Stack]:
    assert small_disk.name == "state"
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


async def fill(stack: Stack, load: Load, round_: int, count: int = 100) -> int:
    """Many instances in one request; the status of the answer."""
    names = [f"fill-{round_}-{number}" for number in range(count)]
    instances = [{"id": name, "inputs": inputs(flight=f"F-{name}")} for name in names]
    answer = await stack.client.post(f"/v1/predict/{SPEC.name}", json={"instances": instances})
    if answer.status_code == 200:
        load.answers |= dict(zip(names, answer.json()["predictions"], strict=True))
    else:
        load.once |= set(names)
    return answer.status_code


async def test_a_full_disk_refuses_and_mends_itself(stack: Stack, small_disk: Path) -> None:
    """More than it holds goes through; what is refused is not logged, and a kill on the full disk is no end."""
    await begin(stack)
    load, ballast = Load(stack), small_disk / "ballast"
    for round_ in range(20):
        await fill(stack, load, round_)
    _fill(ballast)
    refused = [await fill(stack, load, round_) for round_ in range(20, 40)]
    assert set(refused) <= {200, 503}
    assert 503 in refused
    assert stack.process.stop(signal.SIGKILL) == -signal.SIGKILL
    _fill(ballast)  # also what the process has left of its last page
    held = _held(small_disk)
    stack.process.start()
    await stack.until_status(epoch=1)
    await stack.until_status(ready=True)
    rounds = iter(range(100, 10_000))

    async def goes_on() -> bool:
        return await fill(stack, load, next(rounds), 10) == 200  # more than what is left of a page

    if held > AT_LEAST:  # else all was shipped before the ballast came, which has taken its room
        await until(goes_on, "what Kafka has makes room, on a disk as full as before")
    ballast.unlink()
    for round_ in range(40, 60):
        await fill(stack, load, round_)
    load.answers["last"] = await load.ask("last")
    await check_log(stack, load.answers, once=sorted(load.once))
    assert stack.process.stop() == 0


def _held(state: Path) -> int:
    return sum(segment.stat().st_size for segment in state.rglob("*.spool"))


def _fill(ballast: Path) -> None:
    with ballast.open("ab") as file:
        os.set_blocking(file.fileno(), False)
        while _write(file.fileno()):
            pass


def _write(file: int) -> int:
    try:
        return os.write(file, b"x" * 4096)
    except OSError:
        return 0


@pytest.mark.chaos
async def test_many_kills_and_an_outage_lose_and_repeat_nothing(tmp_path: Path) -> None:
    """Killed under load again and again, without Postgres all along and without the broker for a while."""
    kafka = LocalKafka(tmp_path / "kafka")
    await asyncio.to_thread(kafka.start)
    try:
        async with open_stack(kafka.bootstrap, "chaos", tmp_path, SPEC) as stack:
            await begin(stack)
            await until((tmp_path / "state" / "replica.snapshot").exists, "a snapshot")
            chance, load = random.Random(SEED), Load(stack)
            load.start(6, once=2)
            for kill in range(KILLS):
                if kill == KILLS // 3:
                    await _outage(kafka, load)
                await load.until_more(chance.randrange(20, 150))
                assert stack.process.stop(signal.SIGKILL) == -signal.SIGKILL
                stack.process.start()
            await stack.until_status(ready=True, epoch=1)
            await load.stop()
            assert load.failures
            await check_log(stack, load.answers, once=sorted(load.once))
            assert stack.process.stop() == 0
    finally:
        await asyncio.to_thread(kafka.stop)


async def _outage(kafka: LocalKafka, load: Load) -> None:
    """The broker is away; answers go on."""
    await asyncio.to_thread(kafka.stop)
    loop = asyncio.get_running_loop()
    end = loop.time() + OUTAGE_S
    while loop.time() < end:
        await load.until_more(10)
    await asyncio.to_thread(kafka.start)
