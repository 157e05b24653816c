"""Token buckets that the workers of one instance share without a lock.

A bucket is one number: the time at which it would be full again (the generic cell rate algorithm, ITU-T I.371). It
stands in a file that all workers map, and the clock is the machine's own, the same for all processes. So a client has
its whole quota whichever worker its connection reached, and nobody waits for anybody, also not for one that was stopped
in the middle. Two workers that decide within the same microsecond may let one request through that was one too many.
"""

import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path

_WORD = 8


class Quotas:
    """For each key the time at which its bucket is full again, in seconds of the machine's clock."""

    def __init__(self, keys: int, shared: Path | None = None) -> None:
        """Of this process alone, or in the file `shared`."""
        size = keys * _WORD
        if shared is None:
            self.full_at = memoryview(bytearray(size)).cast("d")
            return
        shared.parent.mkdir(parents=True, exist_ok=True)
        for old in shared.parent.glob("quotas-*"):
            if old != shared:  # of other keys; who still maps it keeps it
                old.unlink(missing_ok=True)
        descriptor = os.open(shared, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            self.full_at = memoryview(mmap.mmap(descriptor, size)).cast("d")
        finally:
            os.close(descriptor)


class Bucket:
    """One key's quota."""

    def __init__(
        self, quotas: Quotas, key: int, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:  # fmt: skip
        """`rate` rows come back a second, up to `burst`."""
        self._full_at, self._key, self._rate, self.burst, self._clock = quotas.full_at, key, rate, burst, clock
        self._depth_s = burst / rate

    def take(self, rows: int) -> float:
        """0 where so many may pass, and they are counted; else the seconds until they might."""
        now, full_at = self._clock(), self._full_at[self._key]
        if not now < full_at <= now + self._depth_s:  # full, or a time of another boot of the machine
            full_at = now
        after = full_at + rows / self._rate
        wait_s = after - now - self._depth_s
        if wait_s > _ROUNDING * self._depth_s:
            return wait_s
        self._full_at[self._key] = min(after, now + self._depth_s)
        return 0.0


_ROUNDING = 1e-9
