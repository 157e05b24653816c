"""How this package's loops are compiled: cached on disk where that is possible.

numba's cache looks only at the file of the function, so compiled functions of one file do not call those of another.
"""

from collections.abc import Callable
from typing import Any, cast

import numba


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled on first use. Other threads may run Python meanwhile only with `detached`."""
    return _cached(numba.njit(error_model="numpy")(function))


def detached(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `compiled`, and other threads run Python meanwhile: for work on arrays that nobody else changes."""
    return _cached(numba.njit(error_model="numpy", nogil=True)(function))


def _cached(dispatcher: Any) -> Callable[..., Any]:  # noqa: ANN401 - numba has no types
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no directory to write to: compile in every process
        return cast("Callable[..., Any]", dispatcher)
    return cast("Callable[..., Any]", dispatcher)
