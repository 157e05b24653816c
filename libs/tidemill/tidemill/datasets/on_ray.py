"""Parts of a computation on a Ray cluster: the same code in other processes, so the same bits.

Ray is no part of the base install (`tidemill[ray]`). The cluster is the one that RAY_ADDRESS names, else a local one
that ends with this process. Its nodes must have the same Tidemill installed.
"""

import importlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tidemill.datasets.errors import DatasetError
from tidemill.datasets.gather import Task
from tidemill.datasets.timeline import Part
from tidemill_engine.arrays import Float64s

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 1
"""Parts under way beyond one for each processor: what a part holds is in the cluster's memory until its turn."""


def solve_on_ray(tasks: Iterable[Task]) -> Iterator[Float64s]:
    """As `solve_here`, one process for each part."""
    return _mapped(_solved, tasks)


def parts_on_ray(parts: Iterable[Part]) -> Iterator[Iterable[Any]]:
    """As `parts_here`; a part's tables come together."""
    return _mapped(_tables, parts)


def _solved(task: Task) -> Float64s:
    return task.solve()


def _tables(part: Part) -> list[Any]:
    return list(part.tables())


def _mapped(function: Callable[[T], R], parts: Iterable[T]) -> Iterator[R]:
    """Results in the order of the parts; raises DatasetError without Ray, and for whatever goes wrong on it."""
    ray = _connected()
    remote, waiting = ray.remote(num_cpus=1)(function), deque[Any]()
    limit = int(ray.cluster_resources().get("CPU", 1)) + _AHEAD
    try:
        for part in parts:
            waiting.append(remote.remote(part))
            if len(waiting) > limit:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())
    except ray.exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1:]
        raise DatasetError(f"a part failed on Ray: {' '.join(last)[:500]}") from error
    finally:
        for each in waiting:
            ray.cancel(each)


def _connected() -> Any:  # noqa: ANN401 - a module that may not be there has no type
    try:
        ray = importlib.import_module("ray")
    except ImportError:
        raise DatasetError("Ray is not installed: pip install 'tidemill[ray]', or leave --engine ray out") from None
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        local: dict[str, Any] = {} if address else {"include_dashboard": False}
        ray.init(address=address, log_to_driver=False, configure_logging=False, **local)
    return ray
