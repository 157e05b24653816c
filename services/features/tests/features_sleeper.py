"""The service, stopped by SIGSTOP just before one of its transactions: what it then holds is old when it wakes.

The write goes on whatever the consumer group says meanwhile, like a request that is on the wire already.
"""

import asyncio
import os
import runpy
import signal
import sys
from collections.abc import Sequence

from tidemill_features.domain.letter import Letter
from tidemill_features.kafka import TransactionLog

_write = TransactionLog.write
_left = [int(os.environ["SLEEP_BEFORE_WRITE"])]


async def _sleep_and_write(self: TransactionLog, letters: Sequence[Letter]) -> None:
    _left[0] -= 1
    if _left[0]:
        return await _write(self, letters)
    os.kill(os.getpid(), signal.SIGSTOP)
    return await asyncio.shield(_report(self, letters))


async def _report(log: TransactionLog, letters: Sequence[Letter]) -> None:
    try:
        await _write(log, letters)
    except BaseException as error:
        sys.stderr.write(f"woke up: {type(error).__name__}\n")
        raise
    sys.stderr.write("woke up: written\n")


TransactionLog.write = _sleep_and_write  # type: ignore[method-assign]  # the point of this file
runpy.run_module("tidemill_features", run_name="__main__")
