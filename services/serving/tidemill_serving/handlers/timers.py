"""Tells the log how far each pipeline has come: that no answer of this process before an event time follows."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.frames import Logged
from tidemill_serving.domain.house import House

TIMERS_EVERY_S = 0.02


class Timers:
    """Writes them where event time has risen, not more often than every 20 ms."""

    def __init__(self, house: House, append: Callable[[Sequence[Logged]], bool]) -> None:
        """`append` writes to the log and says whether it could."""
        self._house, self._append = house, append
        self._due, self._held = False, set[Desk]()

    def soon(self) -> None:
        """Event time may have risen."""
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(TIMERS_EVERY_S, self._write_all)

    @contextmanager
    def holding(self, desk: Desk) -> Iterator[None]:
        """Say nothing of this pipeline meanwhile: some of its answers are on their way to Kafka beside the log."""
        self._held.add(desk)
        try:
            yield
        finally:
            self._held.discard(desk)
            if self._house.desks.get(desk.name) is desk:
                self._write(desk)

    def _write_all(self) -> None:
        self._due = False
        for desk in self._house.desks.values():
            if desk not in self._held:
                self._write(desk)

    def _write(self, desk: Desk) -> None:
        watermark = desk.watermark_us(self._house.replica)
        if watermark is None or (desk.floor_us is not None and watermark <= desk.floor_us):
            return
        if self._append(desk.timers(watermark)):
            desk.floor_us = watermark
