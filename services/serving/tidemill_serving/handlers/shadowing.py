"""Shadows are scored after the answers have left, one batch after the other, and never hold anybody up.

What finds no room waits for nothing: it is left out and counted. Each shadow scores in a thread of low priority, so
that the loop goes on answering meanwhile.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.events import Fallback, Shadowed
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.house import House
from tidemill_serving.domain.loaded import Aside, Beside
from tidemill_serving.domain.scoring import Floats, Weighted, run

MOST_ROWS = 4096
"""That wait at a time."""
AT_ONCE = 256
_log = logging.getLogger(__name__)
Vectors = NDArray[np.float64]


class _Work:
    """A batch with the input of each shadow, put together while the replica is as it was for the answers."""

    __slots__ = ("beside", "desk", "inputs")

    def __init__(self, desk: Desk, beside: Beside, inputs: list[Vectors]) -> None:
        self.desk, self.beside, self.inputs = desk, beside, inputs


class Shadower:
    """Takes batches from the loop and gives their records to the log."""

    def __init__(self, house: House, append: Callable[[list[Entry]], bool]) -> None:
        """`append` writes to the log and says whether it could."""
        self._house, self._append = house, append
        self._waiting: deque[_Work] = deque()
        self._rows = 0
        self._news = asyncio.Event()

    def put(self, desk: Desk, besides: Sequence[Beside]) -> None:
        """Score these later; where there is no room they are dropped and counted."""
        for beside in besides:
            count = len(beside.heads)
            if self._rows + count > MOST_ROWS:
                for aside in beside.loaded.asides:
                    desk.traffic.shadows[aside.member.name, "dropped"] += count
                continue
            try:
                inputs = [self._input(aside, beside) for aside in beside.loaded.asides]
            except Exception:  # noqa: BLE001 - whatever is wrong with a shadow, answers go on
                _log.exception("inputs of the shadows of %s cannot be put together", desk.spec.name)
                continue
            self._waiting.append(_Work(desk, beside, inputs))
            self._rows += count
            self._news.set()

    def _input(self, aside: Aside, beside: Beside) -> Vectors:
        plan = aside.plan
        if plan is None and beside.vectors is not None:
            return beside.vectors
        plan = beside.loaded.plan if plan is None else plan
        return plan.lines(plan.tables(self._house.replica), beside.asks, beside.watermark_us).vectors

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="shadows") as pool:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    work = self._waiting.popleft()
                    found = await loop.run_in_executor(pool, _score, work)
                    self._rows -= len(work.beside.heads)
                    self._log(work, found)

    def _log(self, work: _Work, found: "list[tuple[Weighted, Floats, Fallback]]") -> None:
        desk, loaded = work.desk, work.beside.loaded
        entries, models = [], {member.name: member.digest for member, _, _ in found}
        for row, head in enumerate(work.beside.heads):
            scores = {member.name: float(own[row]) for member, own, _ in found if own[row] == own[row]}
            failed = {member.name: why for member, own, why in found if own[row] != own[row]}
            entries.append(desk.shadowed(head, Shadowed.model_construct(
                prediction_id=UUID(head.prediction_id), pipeline=desk.spec.name, key=head.key, at_us=head.at_us,
                epoch=loaded.released.epoch, scores=scores, models=models, failed=failed,
            )))  # fmt: skip
            for name in scores:
                desk.traffic.shadows[name, "scored"] += 1
            for name, why in failed.items():
                desk.traffic.shadows[name, why] += 1
        if not self._append(entries):
            for name in models:
                desk.traffic.shadows[name, "dropped"] += len(entries)


def _score(work: _Work) -> "list[tuple[Weighted, Floats, Fallback]]":
    """Each shadow with its scores [N] and why it has none where it has none; runs in a thread."""
    out = list[tuple[Weighted, Floats, Fallback]]()
    for aside, vectors in zip(work.beside.loaded.asides, work.inputs, strict=True):
        rows, failed = np.ascontiguousarray(vectors, dtype=np.float32), dict[str, Fallback]()
        parts = [run(aside.member, rows[at : at + AT_ONCE], failed) for at in range(0, len(rows), AT_ONCE)]
        out.append((aside.member, np.concatenate(parts), failed.get(aside.member.digest, "invalid")))
    return out
