"""Requests that wait until a pipeline's features have reached the event time that they ask for."""

import asyncio

from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.house import House

MOST = 1024
"""Requests that may wait at a time; one more is told at once that the features are behind."""


class Freshness:
    """Wakes what waits when event time has risen; `progress` is called after every change of the replica."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._waiting: dict[asyncio.Future[None], tuple[Desk, int]] = {}

    @property
    def waiting(self) -> int:
        """Number of requests that wait."""
        return len(self._waiting)

    async def reached(self, desk: Desk, minimum_us: int, seconds: float) -> bool:
        """Whether the desk's watermark is at least `minimum_us` (microseconds) now or within `seconds`."""
        if self._is_reached(desk, minimum_us):
            return True
        if seconds <= 0 or len(self._waiting) >= MOST:
            return False
        risen: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[risen] = desk, minimum_us
        try:
            async with asyncio.timeout(seconds):
                await risen
        except TimeoutError:
            return False
        finally:
            self._waiting.pop(risen, None)
        return True

    def progress(self) -> None:
        """Event time may have risen."""
        for risen, (desk, minimum_us) in list(self._waiting.items()):
            if not risen.done() and self._is_reached(desk, minimum_us):
                risen.set_result(None)

    def _is_reached(self, desk: Desk, minimum_us: int) -> bool:
        watermark = desk.watermark_us(self._house.replica)
        return watermark is not None and watermark >= minimum_us
