"""Reading log files that grow and are truncated when they are rotated."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

_POLL_S = 0.2


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines of a file, without their line ends."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def follow(paths: Sequence[Path], *, wait: Callable[[], None] | None = None) -> Iterator[tuple[str, str]]:
    """Whole lines added to any of the files from now on, as (stem, line), for ever.

    `wait` is called whenever nothing is new; it may raise to end.
    """
    at = {path: path.stat().st_size for path in paths}
    while True:
        new = [(path.stem, line) for path in paths for line in _added(path, at)]
        yield from new
        if not new:
            (wait or _pause)()


def _added(path: Path, at: dict[Path, int]) -> Iterator[str]:
    if path.stat().st_size < at[path]:  # rotated
        at[path] = 0
    with path.open("rb") as file:
        file.seek(at[path])
        for line in file:
            if not line.endswith(b"\n"):
                return  # the rest of it is still being written
            at[path] += len(line)
            yield line.decode(errors="replace").rstrip("\n")


def _pause() -> None:
    time.sleep(_POLL_S)
