"""The spawned training process: job in, progress and result out, killed when its time is up or its service goes."""

import asyncio
import ctypes
import json
import signal
import sys
from collections.abc import Callable
from typing import Any

from tidemill_trainer.worker import Job

MAX_LINE = 4 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class TrainingCrashedError(Exception):
    """The training process ended without a result."""


async def run_job(job: Job, *, timeout_s: float, progress: Callable[[str, float], None]) -> dict[str, Any]:
    """The result of a job; `{"error": ...}` for a failure that a user can act on.

    Raises TrainingCrashedError when the process dies or takes too long; it is gone when this returns or raises.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidemill_trainer.worker",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE, preexec_fn=_die_with_parent,
    )  # fmt: skip
    try:
        async with asyncio.timeout(timeout_s):
            result = await _converse(process, job, progress)
    except TimeoutError:
        msg = f"the training took longer than {timeout_s:.0f} s"
        raise TrainingCrashedError(msg) from None
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
    if result is None:
        msg = f"the training process ended with status {process.returncode} and no result"
        raise TrainingCrashedError(msg)
    return result


async def _converse(
    process: asyncio.subprocess.Process, job: Job, progress: Callable[[str, float], None]
) -> dict[str, Any] | None:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
    process.stdin.write(job.model_dump_json().encode())
    process.stdin.close()
    result: dict[str, Any] | None = None
    async for line in process.stdout:
        message = json.loads(line)
        if "progress" in message:
            progress(message["progress"]["name"], message["progress"]["share"])
        result = message.get("result", result)
    await process.wait()
    return result


def _die_with_parent() -> None:
    """A service that is killed takes its training along: the next owner of the job starts its own."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
