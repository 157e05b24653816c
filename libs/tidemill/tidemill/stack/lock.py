"""One supervisor per home: a lock that the kernel drops with its holder, however that ends."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tidemill.stack.errors import AlreadyRunningError
from tidemill.stack.paths import Home

_PATIENCE_S = 1.0


@contextmanager
def held(home: Home) -> Iterator[None]:
    """Hold the home's lock; its file names the holder.

    Raises:
        AlreadyRunningError: another process holds it.
    """
    with home.lock.open("a+", encoding="ascii") as file:
        if not _take(file):
            raise AlreadyRunningError(f"{home.root} is already in use by process {holder(home)}")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
        file.truncate(0)


def holder(home: Home) -> int | None:
    """The pid of the supervisor that holds the home, or None."""
    try:
        with home.lock.open("r", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read()
                return int(text) if text else None
    except FileNotFoundError:
        return None
    return None


def _take(file: IO[str]) -> bool:
    """Try for a moment: `holder` takes the lock too, to see whether it can."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        else:
            return True
