"""Which releases answer is written beside the event loop: nobody waits for the disk, and the newest state is on it."""

import asyncio
import threading
from contextlib import suppress

import pytest
from serving_cases import T0_US, pipeline, released

from tidemill_serving.app.keeping import Keeper
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.releases import Kept, KeptRelease, Swap
from tidemill_serving.spool import partitions_of
from tidemill_testkit.waiting import until

SPEC = pipeline()
pytestmark = pytest.mark.anyio


class Disk:
    """A disk that is slow until it is told not to be."""

    def __init__(self) -> None:
        self.kept, self.is_at_it, self.goes_on = list[Kept](), threading.Event(), threading.Event()

    def save(self, kept: Kept) -> None:
        self.is_at_it.set()
        assert self.goes_on.wait(30)
        self.kept.append(kept)


def answers(desk: Desk, epoch: int) -> None:
    """A release comes to answer."""
    desk.history[:] = [KeptRelease(released(SPEC, epoch, "a" * 64), SPEC), *desk.history[:2]]
    desk.swaps[:] = [*desk.swaps, Swap(epoch, T0_US)]


async def stopped(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_slow_disk_holds_nobody_up_and_gets_the_newest_state() -> None:
    disk, desk = Disk(), Desk(SPEC, "tidemill", "test", partitions_of)
    keeper = Keeper(disk.save)
    task = asyncio.ensure_future(keeper.run())
    answers(desk, 1)
    keeper.put(desk)
    await until(disk.is_at_it.is_set, "the disk is at it, and the loop runs", timeout_s=30)
    for epoch in (2, 3):
        answers(desk, epoch)
        keeper.put(desk)
    disk.goes_on.set()
    await stopped(task)
    assert [[swap.epoch for swap in kept.swaps] for kept in disk.kept] == [[1], [1, 2, 3]]
    assert [item.released.epoch for item in disk.kept[-1].releases] == [3, 2, 1]


async def test_what_is_due_at_a_stop_is_written_and_a_full_disk_ends_nothing() -> None:
    written = list[int]()

    def save(kept: Kept) -> None:
        written.append(kept.swaps[-1].epoch)
        raise OSError("the disk is full")

    desk = Desk(SPEC, "tidemill", "test", partitions_of)
    keeper = Keeper(save)
    task = asyncio.ensure_future(keeper.run())
    await asyncio.sleep(0)
    for epoch in (1, 2):
        answers(desk, epoch)
        keeper.put(desk)
    await stopped(task)
    assert written == [2]
