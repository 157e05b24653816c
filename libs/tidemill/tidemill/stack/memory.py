"""What each process, with its children, holds in memory: sampled by the supervisor, for reports and `status`."""

import time
from collections.abc import Mapping

import psutil

from tidemill.stack.files import MemoryReport, MemoryUse

_MIB = 1024 * 1024
_MOST_SAMPLES = 256


class MemorySampler:
    """Peaks and a bounded history for each name. When the history is full, every second sample is dropped."""

    def __init__(self) -> None:
        """Begin now."""
        self._began = time.monotonic()
        self._use: dict[str, MemoryUse] = {}
        self._stride = 1
        self._count = 0
        self._peak = 0.0

    def sample(self, used: Mapping[str, float]) -> None:
        """Take in what each process holds now, in MiB."""
        at = round(time.monotonic() - self._began, 1)
        keep = self._count % self._stride == 0
        self._count += 1
        self._peak = max(self._peak, sum(used.values()))
        for name, exact in used.items():
            before, mib = self._use.get(name, MemoryUse()), round(exact, 1)
            samples = [*before.samples, (at, mib)] if keep else before.samples
            self._use[name] = MemoryUse(peak_mib=max(before.peak_mib, mib), now_mib=mib, samples=samples)
        if any(len(use.samples) >= _MOST_SAMPLES for use in self._use.values()):
            self._stride *= 2
            self._use = {name: use.model_copy(update={"samples": use.samples[::2]}) for name, use in self._use.items()}

    def report(self) -> MemoryReport:
        """Everything seen so far."""
        return MemoryReport(peak_mib=round(self._peak, 1), processes=dict(self._use))


def tree_mib(pid: int) -> float:
    """Resident memory of a process and its descendants in MiB; 0 once it has ended.

    Pages that the processes of one tree share count once (proportional set size), where the system tells: PostgreSQL's
    backends share their buffers. A process alone counts what is resident.
    """
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.Error:
        return 0.0
    shared = len(tree) > 1
    return sum(_bytes(process, shared=shared) for process in tree) / _MIB


def own_mib() -> float:
    """Resident memory of this process alone in MiB."""
    return int(psutil.Process().memory_info().rss) / _MIB


def _bytes(process: psutil.Process, *, shared: bool) -> int:
    try:
        if shared:
            full = process.memory_full_info()
            return int(getattr(full, "pss", full.rss))
        return int(process.memory_info().rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
