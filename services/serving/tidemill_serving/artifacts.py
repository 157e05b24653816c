"""Models by digest: fetched once, examined in the sandbox once, kept on this machine's disk, opened once."""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Later
from tidemill_serving.onnx import Scorer, UnusableModelError
from tidemill_serving.onnx.bounded import Bounded, step_back
from tidemill_serving.onnx.graph import Graph
from tidemill_serving.onnx.sandbox import SandboxLimits
from tidemill_serving.onnx.verdicts import Examiner

NICE = 5
"""Of the thread that opens models: a third of what requests have, so that they find the processor when they need it.

Of the least priority it would lose the processor to a neighbour while it holds the interpreter's lock, and keep its own
requests waiting for tens of milliseconds.
"""
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Models:
    """Opens models of releases. What is on disk here is enough to start with everything else down."""

    def __init__(self, artifacts: Artifacts, folder: Path, examiner: Examiner) -> None:
        """`folder` is this process's own."""
        self._artifacts, self._folder, self._examiner = artifacts, folder, examiner
        self._open: WeakValueDictionary[str, Scorer] = WeakValueDictionary()
        self._graphs: WeakValueDictionary[str, Graph] = WeakValueDictionary()
        self._under_way: Counter[str] = Counter()
        # One thread, which holds the interpreter's lock for fractions of a millisecond at a time (see `bit_tables`).
        self._opening = ThreadPoolExecutor(1, "opening", initializer=step_back, initargs=(NICE,))
        folder.mkdir(parents=True, exist_ok=True)
        for torn in folder.glob("*.part"):  # of a process that was killed
            torn.unlink()

    async def open(self, digest: str, features: list[str]) -> Scorer:
        """The opened model; raises UnusableModelError for one that must not be used, Later when it cannot be had."""
        known = self._open.get(digest)
        if known is not None and known.width == len(features):
            return known
        data, is_quick = await self._examined(digest, features)
        async with self._examiner.turn():
            scorer = await self._aside(lambda: _opened(data, len(features), is_quick=is_quick))
        self._open[digest] = scorer
        return scorer

    async def _aside(self, make: Callable[[], T]) -> T:
        """What a thread makes: requests go on meanwhile."""
        return await asyncio.get_running_loop().run_in_executor(self._opening, make)

    async def open_graph(self, digest: str) -> Graph:
        """As `open` for a model with inputs and outputs of its own; not in the folder of those that `open` opens.

        `keep` may be called while it waits.
        """
        known = self._graphs.get(digest)
        if known is None:
            data, _ = await self._examined(digest, None)
            known = self._graphs[digest] = await self._aside(lambda: Graph(data))
        return known

    async def _examined(self, digest: str, features: list[str] | None) -> tuple[bytes, bool]:
        """The model's bytes, and whether trees of our own give its bits."""
        self._under_way[digest] += 1
        try:
            data = await asyncio.to_thread(self._fetch, digest)
            is_quick = await self._examiner.examine(self._file(digest), digest, features)
        except OSError as error:  # a full disk, no more processes: nothing that the model is to blame for
            raise Later(f"model {digest} cannot be kept or examined on this machine: {error}") from error
        finally:
            self._under_way -= Counter([digest])
        return data, is_quick

    async def open_bounded(self, digest: str, features: list[str], deadline_s: float, *, nice: int = 0) -> Bounded:
        """As `open`, in a thread of its own: whoever asks waits for no longer than `deadline_s`."""
        return Bounded((await self.open(digest, features)).stoppable(), deadline_s, nice=nice)

    def read(self, digest: str) -> bytes:
        """The bytes of a model, from the disk if they are there; waits for them."""
        return self._fetch(digest)

    def keep(self, digests: Iterable[str]) -> None:
        """Delete every model on disk that is not among these; waits for the disk."""
        # What waits for its verdict would else be refused for want of a file; a copy in one step, for other threads.
        wanted = {*digests, *tuple(self._under_way)}
        for file in self._folder.iterdir():
            # What another thread is writing now is not touched: it would fail at the file's last step.
            if file.suffix != ".part" and file.stem not in wanted:
                file.unlink(missing_ok=True)

    def _file(self, digest: str) -> Path:
        return self._folder / f"{digest}.onnx"

    def _fetch(self, digest: str) -> bytes:
        file = self._file(digest)
        if file.exists():
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest() == digest:
                return data
            _log.error("the copy of model %s on disk is damaged and is fetched again", digest)
        data = self._artifacts.get(digest)
        beside = file.with_suffix(".part")
        beside.write_bytes(data)
        beside.replace(file)
        return data


def _opened(data: bytes, width: int, *, is_quick: bool) -> Scorer:
    scorer = Scorer(data, width)
    if is_quick:
        scorer.quicken(data, is_proven=True)
    return scorer


__all__ = ["Models", "SandboxLimits", "UnusableModelError"]
