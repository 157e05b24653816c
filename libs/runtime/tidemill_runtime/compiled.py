"""How this package's loops are compiled: cached on disk where that is possible."""

from contextlib import suppress
from typing import Any

import numba


def compiled(function: Any, *, detached: bool = False) -> Any:  # noqa: ANN401 - numba has no types
    """The function compiled on first use; `detached` lets other threads run Python meanwhile."""
    dispatcher = numba.njit(error_model="numpy", nogil=detached)(function)
    with suppress(RuntimeError):  # no directory to write to: compile in every process
        dispatcher.enable_caching()
    return dispatcher
