"""Opens models in disposable child processes first: bytes can crash, hang or bloat whatever opens them.

One nursery process (`tidemill_serving.onnx.nursery`) imports what opening needs and forks once for each model, so that
every model has a process of its own with limits of its own, for a hundredth of the price of an interpreter.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tidemill_serving.onnx.session import UnusableModelError

NURSERY = "tidemill_serving.onnx.nursery"
START_S = 60.0
"""For a nursery's imports, on a machine that is busy with other things."""
GRACE_S = 10.0
"""The nursery itself keeps the wall clock of its children; this much later it is taken for stuck."""
_LONGEST_LINE = 64 * 1024


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one model may use to be opened and to answer the golden inputs."""

    cpu_s: int = 20
    wall_s: float = 30.0
    memory_mib: int = 1024


class Nursery:
    """An asynchronous context manager: examines models one after another, each in a process of its own."""

    def __init__(self, limits: SandboxLimits) -> None:
        self._limits = limits
        self._process: asyncio.subprocess.Process | None = None

    async def __aenter__(self) -> Self:
        """Nothing is started before the first model."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End the process and all that it may have left."""
        await self.end()

    @property
    def pid(self) -> int | None:
        """Of its process; None before the first model and after `end`."""
        return None if self._process is None else self._process.pid

    async def examine(self, file: Path, features: Sequence[str] | None) -> bool:
        """Return when the model in a file opened and answered well; raises UnusableModelError with why not.

        True for a forest whose bits trees of our own give: `Scorer.quicken` need not compare them all again.
        Without features it may be any model, and need only come back from a run on zeros.
        """
        limits = self._limits
        ask = {
            "file": str(file), "features": None if features is None else list(features),
            "cpu_s": limits.cpu_s, "wall_s": limits.wall_s,
            "memory_mib": limits.memory_mib,
        }  # fmt: skip
        try:
            async with asyncio.timeout(START_S + limits.wall_s + GRACE_S):
                verdict = await _converse(await self._asked(json.dumps(ask).encode() + b"\n"))
        except TimeoutError:
            await self.end()
            raise UnusableModelError(f"no verdict within {limits.wall_s:g} s, and the sandbox hangs") from None
        except BaseException:
            await self.end()
            raise
        if verdict is None:
            status = await self.end()
            raise UnusableModelError(f"the sandbox gave no verdict (status {status})")
        _judge(verdict, limits)
        return verdict.get("quick") is True

    async def _asked(self, ask: bytes) -> asyncio.subprocess.Process | None:
        """A nursery that was asked; None when two of them ended before they could be."""
        for _ in range(2):
            process = await self._started()
            try:
                if process.stdin is not None:
                    process.stdin.write(ask)
                    await process.stdin.drain()
                    return process
            except (ConnectionError, RuntimeError):  # uvloop's word for a pipe that is closed
                await self.end()
        return None

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", NURSERY, limit=_LONGEST_LINE, start_new_session=True,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
                env={"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        return self._process

    async def end(self) -> int | None:
        """Kill the process and whatever it still watches, and reap it; its status. The next model starts another."""
        process, self._process = self._process, None
        if process is None:
            return None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return await process.wait()


async def _converse(process: asyncio.subprocess.Process | None) -> Mapping[str, Any] | None:
    """What the nursery says of one model; None when it says nothing that can be read."""
    if process is None or process.stdout is None:
        return None
    try:
        found = json.loads(await process.stdout.readline())
    except (ConnectionError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _judge(verdict: Mapping[str, Any], limits: SandboxLimits) -> None:
    ended, reason = verdict.get("signal"), verdict.get("reason")
    if verdict.get("late"):
        raise UnusableModelError(f"no verdict within {limits.wall_s:g} s")
    if ended is not None:
        used = float(verdict.get("cpu_s", 0.0))
        raise UnusableModelError(f"the sandbox was ended by {_name(ended)} after {used:.1f} s of processor time")
    if verdict.get("accepted") is not True:
        raise UnusableModelError(str(reason or f"the sandbox gave no verdict (status {verdict.get('status')})")[:500])


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
