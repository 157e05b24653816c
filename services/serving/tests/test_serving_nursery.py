"""A nursery that ends before it is asked is replaced once; a model is not refused for it."""

import signal
from pathlib import Path

import pytest
from serving_cases import linear

from tidemill_serving.onnx.sandbox import Nursery, SandboxLimits

NAMES = ["a", "b"]
pytestmark = pytest.mark.anyio


async def test_a_nursery_that_has_ended_is_started_anew(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(linear(NAMES))
    async with Nursery(SandboxLimits()) as nursery:
        await nursery.examine(file, NAMES)
        process = await nursery._started()
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        await nursery.examine(file, NAMES)
        assert (await nursery._started()).pid != process.pid
