"""One way to compile kernels: cached on disk, no fast-math, IEEE division instead of Python's exception.

numba's cache looks only at the file of the kernel that is called from Python. After an edit of a helper kernel in
another file delete `__pycache__/*.nb?` of this folder.
"""

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """The function compiled on first use; results do not depend on the machine's vector width (fastmath stays off)."""
    return cast("Callable[P, R]", numba.njit(cache=True, fastmath=False, error_model="numpy")(function))


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A small kernel that is always compiled into its callers: passing a dozen arrays costs more than its work."""
    return cast(
        "Callable[P, R]", numba.njit(cache=True, fastmath=False, error_model="numpy", forceinline=True)(function)
    )
