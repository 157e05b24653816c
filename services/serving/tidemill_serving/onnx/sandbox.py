"""Opens models in disposable child processes first: bytes can crash, hang or bloat whatever opens them.

One nursery process (`tidemill_serving.onnx.nursery`) imports what opening needs and forks once for each model, so that
every model has a process of its own with limits of its own, for a hundredth of the price of an interpreter.
"""

import asyncio
import json
import os
import signal
import subprocess
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
        self._process: subprocess.Popen[bytes] | None = None

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
                verdict = await self._asked(json.dumps(ask).encode() + b"\n")
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

    async def _asked(self, ask: bytes) -> Mapping[str, Any] | None:
        """What the nursery says; None when that cannot be read, or two of them ended before they could be asked."""
        for _ in range(2):
            try:
                return await asyncio.to_thread(_converse, await self._started(), ask)
            except BrokenPipeError:
                await self.end()
        return None

    async def _started(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            starting = asyncio.ensure_future(asyncio.to_thread(_start))
            try:
                self._process = await asyncio.shield(starting)
            except asyncio.CancelledError:
                self._process = await starting  # which our caller ends
                raise
        return self._process

    async def end(self) -> int | None:
        """Kill the process and whatever it still watches, and reap it; its status. The next model starts another."""
        process, self._process = self._process, None
        return None if process is None else await asyncio.to_thread(_end, process)


def _start() -> "subprocess.Popen[bytes]":
    """In a thread, and not by the event loop, which would copy this process's tables of pages: 10 to 20 ms."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter
        (sys.executable, "-m", NURSERY), start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip


def _converse(process: "subprocess.Popen[bytes]", ask: bytes) -> Mapping[str, Any] | None:
    """In a thread, until there is a line or the process ends; raises BrokenPipeError where it had ended before."""
    assert process.stdin is not None  # noqa: S101 - both are pipes
    assert process.stdout is not None  # noqa: S101
    process.stdin.write(ask)
    process.stdin.flush()
    try:
        found = json.loads(process.stdout.readline(_LONGEST_LINE))
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _end(process: "subprocess.Popen[bytes]") -> int:
    """In a thread: whoever reads from it meets its end."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # what it was not told any more
                pipe.close()
    return status


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
