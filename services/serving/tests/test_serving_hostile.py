"""Whatever bytes a release points at: no hostile model is loaded, nothing here ends, and no process is left behind."""

import asyncio
import fcntl
import os
import signal
import termios
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from serving_cases import linear
from serving_hostile_bytes import FEATURES
from serving_hostile_graphs import CORPUS, products

from tidemill_engine.onnx import Forest, Tree, forest_to_onnx, golden_inputs, inspect_model
from tidemill_serving.onnx import Scorer, UnusableModelError
from tidemill_serving.onnx.sandbox import Nursery, SandboxLimits
from tidemill_serving.onnx.session import is_probability
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
LIMITS = SandboxLimits(cpu_s=2, wall_s=60, memory_mib=512)
SEED = 20_130_101


def forest() -> bytes:
    """Eight trees of three leaves."""
    rng = np.random.default_rng(SEED)
    trees = tuple(
        Tree(
            np.array([0, 1], np.int32), rng.normal(size=2), np.array([True, False]), np.array([1, -1], np.int32),
            np.array([-3, -2], np.int32), rng.normal(size=3), np.ones(3),
        )
        for _ in range(8)
    )  # fmt: skip
    return forest_to_onnx(Forest(trees, len(FEATURES)), FEATURES)


def mutations(count: int) -> Iterator[bytes]:
    """Good models with one to eight bytes changed, left out, put in or doubled; the same ones every time."""
    good = (linear(FEATURES), forest())
    for number in range(count):
        rng = np.random.default_rng([SEED, number])
        data = bytearray(good[number % len(good)])
        for _ in range(rng.integers(1, 5)):
            at, size = int(rng.integers(len(data))), int(rng.integers(1, 9))
            kind = rng.integers(5)
            if kind == 0:
                data[at] ^= 1 << int(rng.integers(8))
            elif kind == 1:
                data[at] = int(rng.choice([0x00, 0x7F, 0x80, 0xFF]))
            elif kind == 2:
                del data[at : at + size]
            elif kind == 3:
                data[at:at] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
            else:
                data[at:at] = data[at : at + size]
        yield bytes(data)


async def reasons(folder: Path, files: Iterator[bytes]) -> list[str | None]:
    """Why each was refused, None for a model that is used: in this process it must keep what it has shown."""
    file, found = folder / "model.onnx", list[str | None]()
    here, nurseries = os.getpid(), set[int]()
    async with Nursery(LIMITS) as nursery:
        for data in files:
            file.write_bytes(data)
            try:
                await nursery.examine(file, FEATURES)
                found.append(None)
                keeps_its_word(data)
            except UnusableModelError as error:
                found.append(str(error))
            assert nursery._process is not None
            nurseries.add(nursery._process.pid)
        (pid,) = nurseries  # it watched all of them: none could end it
        assert not psutil.Process(pid).children(recursive=True)
    assert not psutil.pid_exists(pid)
    assert os.getpid() == here
    return found


def keeps_its_word(data: bytes) -> None:
    scorer = Scorer(data, len(FEATURES))
    assert is_probability(scorer.scores(golden_inputs(len(FEATURES)))).all()
    assert inspect_model(data).features in {None, tuple(FEATURES)}


async def test_none_of_the_hostile_files_is_loaded(tmp_path: Path) -> None:
    assert len(CORPUS) >= 60
    found = await reasons(tmp_path, (make() for make in CORPUS.values()))
    told = dict(zip(CORPUS, found, strict=True))
    assert [name for name, reason in told.items() if reason is None] == []
    for name, why in (
        ("traps the processor", "SIGFPE"), ("multiplies for hours", "processor time"), ("external", "external data"),
        ("mixes rows", "beside it"), ("throws dice", "RandomUniformLike"), ("loops for ever", "Loop"),
        ("answers two", "probability"), ("names_of_others", "names"), ("too large", "bytes, more than"),
    ):  # fmt: skip
        assert why in str(told[name])


async def test_mutations_of_good_models_are_refused_or_good(tmp_path: Path) -> None:
    found = await reasons(tmp_path, mutations(50))
    assert found.count(None) < 40


@pytest.mark.chaos
async def test_two_thousand_mutations_are_refused_or_good(tmp_path: Path) -> None:
    found = await reasons(tmp_path, mutations(2000))
    assert 0 < found.count(None) < 1600


async def test_after_a_model_that_ended_its_child_the_next_is_examined(tmp_path: Path) -> None:
    async with Nursery(SandboxLimits(cpu_s=30, wall_s=0.5, memory_mib=512)) as nursery:
        (tmp_path / "slow").write_bytes(products(5000))
        (tmp_path / "good").write_bytes(linear(FEATURES))
        with pytest.raises(UnusableModelError, match="no verdict within"):
            await nursery.examine(tmp_path / "slow", FEATURES)
    async with Nursery(LIMITS) as nursery:
        for _ in range(2):
            await nursery.examine(tmp_path / "good", FEATURES)
            with pytest.raises(UnusableModelError, match="FileNotFoundError"):
                await nursery.examine(tmp_path / "nowhere", FEATURES)


async def test_a_nursery_that_dies_is_told_from_a_bad_model_and_started_again(tmp_path: Path) -> None:
    (tmp_path / "good").write_bytes(linear(FEATURES))
    async with Nursery(LIMITS) as nursery:
        await nursery.examine(tmp_path / "good", FEATURES)
        process = nursery._process
        assert process is not None
        assert process.stdin is not None
        pipe = process.stdin.fileno()
        process.send_signal(signal.SIGSTOP)
        asked = asyncio.ensure_future(nursery.examine(tmp_path / "good", FEATURES))
        await until(lambda: fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) != bytes(4), "it is asked")
        process.kill()
        with pytest.raises(UnusableModelError, match=r"no verdict \(status"):
            await asked
        await nursery.examine(tmp_path / "good", FEATURES)
