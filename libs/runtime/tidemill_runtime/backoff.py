"""Waiting between attempts: exponential, bounded, without a random part so that tests can name the delays."""

import asyncio
import time


class Backoff:
    """Delays `first, 2 * first, 4 * first, ...` seconds up to `limit`; `reset` after a success."""

    def __init__(self, first: float = 0.1, limit: float = 2.0) -> None:
        self._first, self._limit, self._next = first, limit, first

    def reset(self) -> None:
        self._next = self._first

    def delay(self) -> float:
        """The next delay in seconds."""
        now = self._next
        self._next = min(self._limit, now * 2)
        return now

    async def wait(self) -> None:
        await asyncio.sleep(self.delay())


class Rarely:
    """True at most once per `every` seconds: keeps a failing loop from filling the log."""

    def __init__(self, every: float = 5.0) -> None:
        self._every, self._last = every, float("-inf")

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._every:
            return False
        self._last = now
        return True
