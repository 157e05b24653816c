"""Who has the processor first, as far as Linux can be told without a privilege; elsewhere nothing happens.

`short_turns` is for a thread that sleeps most of the time and is to run as soon as it is woken: the scheduler (EEVDF,
Linux 6.12) puts who asks for short turns before whoever has a longer one under way. Without it an event loop waits for
up to a tick of the kernel, 4 ms, behind each thread that computes. `only_when_idle` is for work that nobody waits for.
"""

import ctypes
import os
import platform
import struct
import sys
from contextlib import suppress

SHORT_NS = 100_000
"""The shortest turn that can be asked for."""
_CALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
"""Numbers of `sched_setattr` and `sched_getattr`, which C libraries know only lately."""
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")
_NO_HEIRS = 1
"""SCHED_FLAG_RESET_ON_FORK: threads and children have usual turns again."""


def short_turns(turn_ns: int = SHORT_NS) -> bool:
    """The calling thread runs soon when it is woken, and no longer at a time than others do; whether that was taken."""
    calls = _calls()
    if calls is None or os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK:
        return False  # also for who has been given another policy
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, _NO_HEIRS, nice, 0, turn_ns, 0, 0, 0, 0)
    return bool(ctypes.CDLL(None).syscall(calls[0], 0, asked, 0) == 0)


def turn_ns(thread: int = 0) -> int | None:
    """The longest turn of a thread (0: the calling one) before others are looked at; None where it cannot be told."""
    calls, told = _calls(), ctypes.create_string_buffer(_ATTRIBUTES.size)
    if calls is None or ctypes.CDLL(None).syscall(calls[1], thread, told, len(told), 0) != 0:
        return None
    return int(_ATTRIBUTES.unpack(told.raw)[5])


def _calls() -> tuple[int, int] | None:
    return _CALLS.get(platform.machine()) if sys.platform == "linux" else None


def only_when_idle() -> None:
    """The calling thread, and what it starts, takes only what nobody else wants; there is no way back."""
    with suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
