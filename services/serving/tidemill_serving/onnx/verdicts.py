"""Examines models for all workers of an instance: what one sandbox has accepted the others need not try again."""

import asyncio
import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from tidemill_serving.onnx.sandbox import Nursery, SandboxLimits

_VERSION = version("tidemill-serving")
KEPT = 256
"""Newest verdicts that are remembered."""
TURN_S, TURN_LOOK_S = 1.0, 0.005
"""For another worker to open a model, which takes milliseconds, and how often it is looked at."""
_LOOK_S = 0.02
_QUICK = b"quick"


class Examiner:
    """One model at a time over all processes that share `folder`, in a nursery that stays for a while.

    A nursery's imports cost a second of processor time, which is more than all that follows: releases often come in
    rows, and every worker takes each of them.
    """

    def __init__(self, folder: Path, limits: SandboxLimits, *, stays_s: float = 0.0) -> None:
        """`stays_s`: how long a nursery is kept for the next model; 0 ends it at once."""
        self._folder, self._nursery, self._stays_s = folder, Nursery(limits), stays_s
        self._mine = asyncio.Lock()
        self._end: asyncio.TimerHandle | None = None
        self._ending: asyncio.Task[None] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int | None:
        """Of the nursery, while there is one."""
        return self._nursery.pid

    async def examine(self, file: Path, digest: str, features: Sequence[str] | None) -> bool:
        """Return when the model in `file` was accepted, now or before; raises UnusableModelError.

        Whether trees of our own give its bits, as `Nursery.examine` says.
        """
        mark = self._folder / _name(digest, features)
        if (found := _read(mark)) is not None:
            return found
        async with self._mine, _locked(self._folder / "lock"):
            if (found := _read(mark)) is not None:
                return found
            self._stay()
            try:
                found = await self._nursery.examine(file, features)
            finally:
                await self._leave()
            beside = mark.with_suffix(".part")
            beside.write_bytes(_QUICK if found else b"")
            beside.replace(mark)
            self._forget()
            return found

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """One worker at a time opens what was accepted, and others answer meanwhile; who stands still is passed by."""
        async with _locked(self._folder / "turn", look_s=TURN_LOOK_S, patience_s=TURN_S):
            yield

    async def close(self) -> None:
        """End the nursery."""
        self._stay()
        await self._nursery.end()

    def _stay(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None

    async def _leave(self) -> None:
        if self._stays_s > 0:
            self._end = asyncio.get_running_loop().call_later(self._stays_s, self._end_unused)
        else:
            await self._nursery.end()

    def _end_unused(self) -> None:
        self._end = None
        self._ending = asyncio.ensure_future(self._end_alone())

    async def _end_alone(self) -> None:
        async with self._mine:
            if self._end is None:  # else it was used meanwhile
                await self._nursery.end()

    def _forget(self) -> None:
        marks = sorted(self._folder.glob("*.accepted"), key=lambda found: found.stat().st_mtime_ns)
        for mark in marks[:-KEPT]:
            mark.unlink(missing_ok=True)


@asynccontextmanager
async def _locked(file: Path, *, look_s: float = _LOOK_S, patience_s: float = math.inf) -> AsyncIterator[None]:
    """Hold a lock that ends with its process, however that ends; without it when it does not come in time."""
    opened, give_up_at = os.open(file, os.O_CREAT | os.O_RDWR, 0o600), time.monotonic() + patience_s
    try:
        while time.monotonic() < give_up_at:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                await asyncio.sleep(look_s)
        yield
    finally:
        os.close(opened)


def _read(mark: Path) -> bool | None:
    """What was found of a model, None when it was not examined."""
    try:
        return mark.read_bytes() == _QUICK
    except FileNotFoundError:
        return None


def _name(digest: str, features: Sequence[str] | None) -> str:
    """Of what was accepted: these bytes under these names, by the checks of this version."""
    what = json.dumps([_VERSION, digest, None if features is None else list(features)])
    return f"{hashlib.sha256(what.encode()).hexdigest()}.accepted"
