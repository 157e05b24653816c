"""Asking for memory before it is needed: with many keys an event's time is waiting for a dozen cache lines."""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import inlined

_LINE_WORDS = 8


def _hint(_context: Any, words: Any, at: Any) -> Any:  # noqa: ANN401 - numba's own objects
    """The word at a place will be written soon; changes no value, and the place may be any."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ANN401
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), cgutils.voidptr_t)
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        builder.call(hint, [place, number(1), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(words, at), generate


_prefetch: Any = intrinsic(_hint)


@inlined
def ask_for(words: Words, at: int, count: int) -> None:
    """Bring `count` words from `at` on into the cache."""
    for place in range(at, at + count, _LINE_WORDS):
        _prefetch(words, np.int64(place))
    _prefetch(words, np.int64(at + count - 1))
