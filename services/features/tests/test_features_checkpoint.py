"""Checkpoints come when they are due, and keep their distance when storing takes long."""

from collections.abc import Sequence

import pytest
from features_cases import fresh, views

from tidemill_features.domain.cold import Found, Rows, Wanted
from tidemill_features.domain.marks import Capture, Marks
from tidemill_features.domain.segments import Owner
from tidemill_features.domain.views import View
from tidemill_features.handlers.checkpoint import Checkpointer

pytestmark = pytest.mark.anyio


class Slow:
    """A store that takes three seconds of a clock that stands still otherwise."""

    def __init__(self) -> None:
        self.now = 0.0

    async def own(self, partition: int) -> Owner:
        return Owner(partition, 1, 0)

    async def load(self, owner: Owner, view: View) -> tuple[Marks, list[tuple[bytes, bytes | None]]]:
        raise NotImplementedError

    async def cold(self, owner: Owner, view: View) -> Rows:
        raise NotImplementedError

    async def fetch(self, view: View, partition: int, wanted: Wanted) -> Found:
        raise NotImplementedError

    async def save(self, owner: Owner, captures: Sequence[tuple[View, Capture]]) -> None:
        del owner, captures
        self.now += 3.0


async def test_the_next_checkpoint_waits_nine_times_as_long_as_the_last_one_took() -> None:
    store = Slow()
    due = Checkpointer(store, Owner(0, 1, 0), every_s=2.0, every_records=10, clock=lambda: store.now)
    part = fresh(views()["by-flight"], 0).views[0]
    assert not due.is_due()
    due.count(10)
    assert due.is_due()
    due.save([(part, Capture([], Marks()))])
    assert not due.is_due()
    await due.finish()
    due.count(10)
    for now, expected in ((3.0, False), (26.9, False), (27.0, True)):
        store.now = now
        assert due.is_due() is expected
