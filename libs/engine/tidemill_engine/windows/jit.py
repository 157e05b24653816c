"""One way to compile kernels: cached on disk, no fast-math, IEEE division instead of Python's exception.

numba's cache looks only at the file of the kernel that is called from Python, so an edit of a helper in another file
would leave old machine code in use. Here the cache is valid for the contents of all files of this package together.

Kernels make no arrays (`_nrt`): counting who holds each array that a kernel passes on took longer than its work.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
from numba.core.caching import IndexDataCacheFile

P = ParamSpec("P")
R = TypeVar("R")


@cache
def source_digest() -> str:
    """SHA-256 over the sources of this package."""
    total = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        total.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()


def _compile(function: Callable[P, R], options: dict[str, Any]) -> Callable[P, R]:
    more: dict[str, Any] = {"_nrt": False, **options}  # numba's types do not name it
    dispatcher = numba.njit(fastmath=False, error_model="numpy", **more)(function)
    try:
        dispatcher.enable_caching()
    except RuntimeError:  # no directory to write to: compile in every process
        return cast("Callable[P, R]", dispatcher)
    # numba offers no way to say what else a cached function was built from. The digest is part of the files' names too,
    # not only their stamp: to compare it an index is unpickled, which fails when it names a class that is gone by now.
    cache, digest = dispatcher._cache, source_digest()  # noqa: SLF001 - see above
    name = f"{cache._impl.filename_base}.{digest[:12]}"  # noqa: SLF001 - see above
    made: Any = IndexDataCacheFile
    cache._cache_file = made(cache._cache_path, name, digest)  # noqa: SLF001 - see above
    return cast("Callable[P, R]", dispatcher)


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """The function compiled on first use; results do not depend on the machine's vector width (fastmath stays off)."""
    return _compile(function, {})


def detached(function: Callable[P, R]) -> Callable[P, R]:
    """A kernel that lets other threads run Python meanwhile: for work on arrays that nobody else changes."""
    return _compile(function, {"nogil": True})


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A small kernel that is always compiled into its callers: passing a dozen arrays costs more than its work."""
    return _compile(function, {"forceinline": True})
