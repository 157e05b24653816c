"""One core for the server that is measured, the rest for everything else."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import psutil

CORES = sorted(os.sched_getaffinity(0))
SERVER = {CORES[0]}
OTHERS = set(CORES[1:]) or SERVER


def pin(pid: int, cores: set[int], *, alone: bool = False) -> None:
    """All threads of a process and, unless `alone`, of its children; what they start later inherits it."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for each in (process, *(() if alone else process.children(recursive=True))):
            for task in Path(f"/proc/{each.pid}/task").glob("*"):
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), cores)


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """What is started in the body runs on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def listener(url: str) -> psutil.Process:
    """The process that listens on the port of a URL; raises LookupError when there is none."""
    port = urlsplit(url).port
    for found in psutil.net_connections("tcp"):
        if found.status == psutil.CONN_LISTEN and found.laddr and found.laddr.port == port and found.pid is not None:
            return psutil.Process(found.pid)
    raise LookupError(f"nobody listens at {url}")


def cpu_s(process: psutil.Process) -> float:
    """Processor seconds that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)
