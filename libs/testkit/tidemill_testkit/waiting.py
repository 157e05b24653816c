"""Waiting for a named condition with a deadline: the only way a test lets time pass."""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable


async def until(
    condition: Callable[[], object | Awaitable[object]], what: str, *, timeout_s: float = 15.0, every_s: float = 0.01
) -> None:
    """Return once `condition()` is truthy; raises AssertionError naming `what` after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        await asyncio.sleep(every_s)


def until_sync(condition: Callable[[], object], what: str, *, timeout_s: float = 15.0, every_s: float = 0.01) -> None:
    """As `until`, for tests without an event loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(every_s)
