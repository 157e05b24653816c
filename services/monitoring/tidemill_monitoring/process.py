"""Parity as an invariant: now and then a sample of what was answered is computed again, and differences are counted.

The child that does it has the lowest priority and works a fiftieth of the time at most.
"""

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time

from prometheus_client import Counter

from tidemill_monitoring.worker import Order, Told
from tidemill_runtime.backoff import Rarely

PAUSE = 50
"""A sample that took a second is followed by a pause of so many."""
TIMEOUT_S = 600.0
CHECKED = Counter("tidemill_parity_checked", "Logged vectors computed again from the archive.", ["pipeline"])
MISMATCHES = Counter("tidemill_parity_mismatches", "Logged vectors that the archive does not give.", ["pipeline"])
FAILED = Counter("tidemill_parity_failed", "Samples that could not be computed.")
_MAX_LINE = 16 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None
_log = logging.getLogger(__name__)


class SampleFailedError(Exception):
    """The child ended without an answer."""


class ParitySampler:
    """Takes a sample every `every_s` seconds, or more rarely where one takes long; 0: never."""

    def __init__(self, every_s: float, *, one_in: int) -> None:
        self._every_s = every_s
        self._order = Order(one_in=one_in)
        self._speak = Rarely()

    async def run(self) -> None:
        """Sample until cancelled."""
        if not self._every_s:
            await asyncio.Event().wait()
        pause = self._every_s
        while True:
            await asyncio.sleep(pause)
            since = time.monotonic()
            try:
                self._note(await sample(self._order))
            except SampleFailedError as error:
                FAILED.inc()
                if self._speak():
                    _log.warning("a sample of answers could not be computed again: %s", error)
            pause = max(self._every_s, PAUSE * (time.monotonic() - since))

    def _note(self, told: Told) -> None:
        self._order = self._order.model_copy(update={"after": told.after})
        for pipeline, found in told.pipelines.items():
            CHECKED.labels(pipeline).inc(found["checked"])
            MISMATCHES.labels(pipeline).inc(found["mismatches"])
            if found["mismatches"]:
                first = found["first"][:1]
                _log.error("%d of %d answers of %s differ from the archive, first %s",
                           found["mismatches"], found["checked"], pipeline, first)  # fmt: skip


async def sample(order: Order) -> Told:
    """What a child finds; it is gone when this returns. Raises SampleFailedError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidemill_monitoring.worker",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=_MAX_LINE, preexec_fn=_lowly,
    )  # fmt: skip
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer, errors = await process.communicate(order.model_dump_json().encode())
    except TimeoutError:
        raise SampleFailedError(f"it took longer than {TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        last = errors.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise SampleFailedError(f"status {process.returncode}: {' '.join(last)[:500]}")
    return Told.model_validate_json(answer)


def _lowly() -> None:
    """Behind everything else on the machine, and gone with the service."""
    os.nice(19)
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
