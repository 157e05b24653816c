"""Workers of one instance share what the sandbox has found, and a nursery stays for the releases that follow."""

import asyncio
from pathlib import Path

import psutil
import pytest
from serving_cases import forest, linear

from tidemill_serving.onnx import UnusableModelError
from tidemill_serving.onnx.sandbox import SandboxLimits
from tidemill_serving.onnx.verdicts import KEPT, Examiner
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
NAMES = ["a", "b"]
GOOD, NEVER = SandboxLimits(cpu_s=10, wall_s=30, memory_mib=512), SandboxLimits(cpu_s=1, wall_s=0.0)


def written(folder: Path) -> Path:
    file = folder / "model.onnx"
    file.write_bytes(linear(NAMES))
    return file


async def test_what_one_worker_has_accepted_another_does_not_examine(tmp_path: Path) -> None:
    file = written(tmp_path)
    await Examiner(tmp_path / "v", GOOD).examine(file, "digest", NAMES)
    await Examiner(tmp_path / "v", NEVER).examine(file, "digest", NAMES)
    with pytest.raises(UnusableModelError):  # the same bytes under other names are another model
        await Examiner(tmp_path / "v", NEVER).examine(file, "digest", ["a", "c"])


async def test_what_a_forest_has_shown_in_the_sandbox_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(forest(["a", "b"]))
    assert await Examiner(tmp_path / "v", GOOD).examine(file, "digest", NAMES)
    assert await Examiner(tmp_path / "v", NEVER).examine(file, "digest", NAMES)
    assert not await Examiner(tmp_path / "v", GOOD).examine(written(tmp_path), "other", NAMES)
    assert not await Examiner(tmp_path / "v", NEVER).examine(file, "other", NAMES)


async def test_two_at_once_examine_it_once(tmp_path: Path) -> None:
    file = written(tmp_path)
    first, second = Examiner(tmp_path / "v", GOOD, stays_s=60), Examiner(tmp_path / "v", GOOD, stays_s=60)
    try:
        await asyncio.gather(first.examine(file, "digest", NAMES), second.examine(file, "digest", NAMES))
        assert [first.pid, second.pid].count(None) == 1
    finally:
        await first.close()
        await second.close()


async def test_workers_open_one_after_the_other_and_pass_by_one_that_stands_still(tmp_path: Path) -> None:
    first, second, order = Examiner(tmp_path / "v", GOOD), Examiner(tmp_path / "v", GOOD), list[str]()

    async def opens() -> None:
        async with second.turn():
            order.append("second")

    async with first.turn():
        waiting = asyncio.ensure_future(opens())
        await asyncio.sleep(0)
        order.append("first")
    await waiting
    assert order == ["first", "second"]
    async with first.turn():
        await asyncio.wait_for(opens(), 30)


async def test_a_refusal_is_not_remembered(tmp_path: Path) -> None:
    file = written(tmp_path)
    for _ in range(2):
        with pytest.raises(UnusableModelError):
            await Examiner(tmp_path / "v", NEVER).examine(file, "digest", NAMES)
    await Examiner(tmp_path / "v", GOOD).examine(file, "digest", NAMES)


async def test_a_nursery_stays_for_the_next_model_and_ends_when_none_comes(tmp_path: Path) -> None:
    file, examiner = written(tmp_path), Examiner(tmp_path / "v", GOOD, stays_s=0.5)
    await examiner.examine(file, "one", NAMES)
    pid = examiner.pid
    assert pid is not None
    await examiner.examine(file, "two", NAMES)
    assert examiner.pid == pid
    await until(lambda: examiner.pid is None and not psutil.pid_exists(pid), "the nursery has ended", timeout_s=60)
    await examiner.examine(file, "three", NAMES)
    await examiner.close()
    assert examiner.pid is None


async def test_old_verdicts_make_room(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    folder.mkdir()
    for number in range(KEPT + 5):
        (folder / f"{number}.accepted").touch()
    await Examiner(folder, GOOD).examine(written(tmp_path), "digest", NAMES)
    assert len(list(folder.glob("*.accepted"))) == KEPT
    await Examiner(folder, NEVER).examine(written(tmp_path), "digest", NAMES)
