"""The folder of models on disk: what may be deleted while another thread fetches, and what a full disk means."""

import asyncio
import fcntl
import os
from pathlib import Path

import psutil
import pytest
from serving_cases import linear

from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Later
from tidemill_serving.artifacts import NICE, Models, SandboxLimits
from tidemill_serving.onnx.verdicts import Examiner
from tidemill_testkit.waiting import until

NAMES = ["a", "b"]
pytestmark = pytest.mark.anyio


def opener(artifacts: Artifacts, folder: Path) -> Models:
    return Models(artifacts, folder / "models", Examiner(folder / "verdicts", SandboxLimits()))


async def test_what_waits_for_its_verdict_is_not_deleted(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    digest = artifacts.put(linear(NAMES))
    models, file = opener(artifacts, tmp_path), tmp_path / "models" / f"{digest}.onnx"
    with (tmp_path / "verdicts" / "lock").open("w") as sibling:
        fcntl.flock(sibling, fcntl.LOCK_EX)
        opening = asyncio.ensure_future(models.open(digest, NAMES))
        await until(file.exists, "the model is fetched", timeout_s=60)
        models.keep([])
        assert file.exists()
    assert (await opening).width == len(NAMES)
    models.keep([])
    assert not file.exists()


async def test_a_model_is_opened_behind_requests_but_not_behind_everybody(tmp_path: Path) -> None:
    artifacts, own = Artifacts(tmp_path / "artifacts"), os.getpriority(os.PRIO_PROCESS, 0)
    models = opener(artifacts, tmp_path)
    await models.open(artifacts.put(linear(NAMES)), NAMES)
    threads = [os.getpriority(os.PRIO_PROCESS, thread.id) for thread in psutil.Process().threads()]
    assert min(own + NICE, 19) in threads


async def test_a_file_that_is_being_written_is_not_deleted_by_what_is_kept(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    digest = artifacts.put(linear(NAMES))
    models = opener(artifacts, tmp_path)
    await models.open(digest, NAMES)
    under_way = tmp_path / "models" / f"{'0' * 64}.part"
    under_way.write_bytes(b"half of it")
    models.keep([])
    assert [file.name for file in (tmp_path / "models").iterdir()] == [under_way.name]
    opener(artifacts, tmp_path)
    assert not under_way.exists(), "nobody writes it after a start"


async def test_a_disk_that_takes_nothing_is_no_fault_of_the_model(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    digest = artifacts.put(linear(NAMES))
    models = opener(artifacts, tmp_path)
    (tmp_path / "models" / f"{digest}.part").mkdir()  # in the way of the file, whoever runs this
    with pytest.raises(Later, match="cannot be kept"):
        await models.open(digest, NAMES)
    (tmp_path / "models" / f"{digest}.part").rmdir()
    assert (await models.open(digest, NAMES)).width == len(NAMES)
