"""A model in a thread of its own: whoever asks waits for a bounded time, and what goes on too long is stopped."""

import os
import threading
from contextlib import suppress
from queue import SimpleQueue
from typing import Protocol

from tidemill_serving.domain.scoring import LateError
from tidemill_serving.onnx.session import Float32s, Floats


class Stoppable(Protocol):
    """A run of a model that another thread may end."""

    def scores(self, rows: Float32s) -> Floats:
        """Scores [N] of rows [N, F]; raises ValueError when the model fails or was stopped."""

    def stop(self) -> None:
        """End the run under way, between two of the model's nodes."""


class _Task:
    __slots__ = ("done", "error", "result", "rows")

    def __init__(self, rows: Float32s) -> None:
        self.rows, self.done = rows, threading.Event()
        self.result: Floats | None = None
        self.error: ValueError | None = None


class Bounded:
    """Answers within `deadline_s` or raises LateError; at once while an earlier run has still not ended."""

    def __init__(self, model: Stoppable, deadline_s: float, *, nice: int = 0) -> None:
        """`nice` lowers the thread's priority beneath the process's, where the system knows such a thing."""
        self._model, self._deadline, self._nice = model, deadline_s, nice
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._under_way: _Task | None = None
        # A daemon: a model that cannot be stopped must not keep the process from ending.
        threading.Thread(target=_work, args=(model, self._tasks, nice), daemon=True).start()

    def __del__(self) -> None:
        """The thread ends with whoever asks."""
        self._tasks.put(None)

    def scores(self, rows: Float32s) -> Floats:
        """Scores [N] of rows [N, F]; raises LateError, or ValueError as the model does."""
        before = self._under_way
        if before is not None and not before.done.is_set():
            raise LateError("the batch before is still being scored")
        task = self._under_way = _Task(rows)
        self._tasks.put(task)
        if not task.done.wait(self._deadline):
            self._model.stop()
            raise LateError(f"no answer within {1000 * self._deadline:g} ms")
        if task.result is None:
            raise task.error or ValueError("no result")
        return task.result


def step_back(nice: int) -> None:
    """Lower the priority of the calling thread beneath the process's, where the system knows such a thing."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + nice)


def _work(model: Stoppable, tasks: "SimpleQueue[_Task | None]", nice: int) -> None:
    """Until a None; holds no reference to `Bounded`, so that it can be collected."""
    if nice:
        step_back(nice)
    while (task := tasks.get()) is not None:
        try:
            task.result = model.scores(task.rows)
        except ValueError as error:
            task.error = error
        except Exception as error:  # noqa: BLE001 - the thread must go on, whatever the model did
            task.error = ValueError(str(error))
        task.done.set()
