"""Who has the processor first: asked of the kernel itself, in threads that end afterwards."""

import os
import platform
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tidemill_runtime.priorities import SHORT_NS, only_when_idle, short_turns, turn_ns

MAJOR, MINOR = (int(part) for part in platform.release().split(".")[:2]) if sys.platform == "linux" else (0, 0)
pytestmark = pytest.mark.skipif((MAJOR, MINOR) < (6, 12), reason="only Linux 6.12 knows short turns")


def in_a_thread(work: Callable[[], None]) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(work).result()


def test_short_turns_are_the_threads_own_and_can_be_asked_for_again() -> None:
    before = turn_ns()

    def work() -> None:
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        assert [short_turns(), short_turns()] == [True, True]
        assert turn_ns() == SHORT_NS
        assert os.getpriority(os.PRIO_PROCESS, 0) == nice
        in_a_thread(heir)

    def heir() -> None:
        assert turn_ns() == before

    in_a_thread(work)
    assert turn_ns() == before


def test_a_thread_with_another_policy_keeps_it() -> None:
    def work() -> None:
        only_when_idle()
        assert not short_turns()
        assert os.sched_getscheduler(0) == os.SCHED_IDLE

    in_a_thread(work)
    assert os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK == os.SCHED_OTHER
