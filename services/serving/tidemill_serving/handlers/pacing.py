"""How much may wait, and how much is answered together: learnt from what instances have cost lately."""

import math
import time
from collections.abc import Callable

from tidemill_serving.domain.body import OVERLOADED
from tidemill_serving.handlers.jobs import Job, Q, count_of

BUDGET_S = 0.03
"""Of what waits; an answer waits for that and what is under way."""
LEAST, TELLING = 256.0, 64.0
"""Instances that may wait whatever they cost; and in ticks in a row from which one learns what they cost."""
HELD = 2048.0
"""Instances that may wait while batches are held."""
TOGETHER, PARTS = 32, 8
"""Requests that a tick takes: what a batch costs once is little beside them. Of a great many, one in `PARTS`."""
SHORTEST_S, LONGEST_S, SHARE = 0.008, 0.025, 0.5
"""Where others are refused a tick answers for so long: what a batch costs once is next to nothing then, and who comes
meanwhile is read soon. Longer where reading and refusing take nearly all the time: for this share of theirs."""
_MEMORY = 0.1


class Pace:
    """`load` is what waits, in instances; `most` how much of it may."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.load, self.most, self.each_s = 0.0, math.inf, 0.0
        self._began, self._spent_s, self._done = 0.0, 0.0, 0.0
        self._taken, self._answer_s = 0.0, 0.0

    @property
    def is_full(self) -> bool:
        """Whether one more would be refused: who asks need not read a request for that."""
        return self.load + 1.0 > self.most and self.load > 0.0

    @property
    def began(self) -> float:
        """When what is answered now began to come, or the tick before it ended."""
        return self._began

    def admit(self, load: float, *, is_held: bool) -> bool:
        """Whether it is the first to wait, which always has room; raises RefusedError where there is none."""
        is_first = self.load == 0.0
        if is_first:
            self._began = self._clock()
        elif self.load + load > (min(self.most, HELD) if is_held else self.most):
            raise OVERLOADED.with_traceback(None)  # else each raising would keep the frames of all before it
        self.load += load
        return is_first

    def room(self, each: float) -> int:
        """How many of such a load would be admitted; the first to wait always is."""
        return max(int((min(self.most, HELD) - self.load) / each), int(self.load == 0.0))

    def expected_s(self, count: int) -> float:
        """Seconds until so many more would be answered."""
        return (self.load + count) * self.each_s

    def together(self) -> int:
        """How many requests a tick that begins now takes at least."""
        self._taken = self._clock()
        if not self.is_full or not self._answer_s:
            return TOGETHER
        return max(TOGETHER, int(min(max(SHORTEST_S, SHARE * (self._taken - self._began)), LONGEST_S) / self._answer_s))

    def take(self, load: float, *, is_all: bool) -> None:
        """So much of what waits is answered now."""
        self.load = 0.0 if is_all else max(self.load - load, 1.0)

    def learn(self, load: float, count: int) -> None:
        """From the time that ticks in a row took, the last of them for so many requests.

        Small ticks tell nothing of large ones.
        """
        now = self._clock()
        self._spent_s, self._done, self._began = self._spent_s + now - self._began, self._done + load, now
        if count:
            answer = (now - self._taken) / count
            self._answer_s += _MEMORY * (answer - self._answer_s) if self._answer_s else answer
        if self._done >= TELLING:
            each = self._spent_s / self._done
            self.each_s += _MEMORY * (each - self.each_s) if self.each_s else each
            self.most = max(LEAST, BUDGET_S / self.each_s)
        if self._done >= TELLING or not self.load:
            self._spent_s = self._done = 0.0


def split(jobs: list[Job[Q]], least: int) -> tuple[list[Job[Q]], list[Job[Q]]]:
    """What a tick takes, and what is left; a part of a job unless one write is to log all or none of it."""
    left = max(least, count_of(jobs) // PARTS)
    for place, job in enumerate(jobs):
        if left <= 0:
            return jobs[:place], jobs[place:]
        count = len(job.queries)
        if count > left and not job.is_whole:
            first, rest = jobs[:place], jobs[place + 1 :]
            first.append(job.part(0, left))
            rest.insert(0, job.part(left, count))
            return first, rest
        left -= count
    return jobs, []
