"""Raw scores of a written forest without a branch: each leaf of a tree is a bit, each split clears some of them.

Leaves are numbered from left to right. A row that goes right at a split can end in no leaf to the left of it, whose
bits the split's mask clears; it does not matter in which order the splits are asked, nor whether the row comes past
them. The lowest bit that is left is the row's leaf (QuickScorer: Lucchese et al., SIGIR 2015, here tree by tree for
many rows at once). Leaves are added up in float32 in the order of the trees, the base comes last, as in onnxruntime.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from onnx import ModelProto, TensorProto, helper

from tidemill_engine.arrays import Float32s, Int32s
from tidemill_engine.onnx import bit_tables
from tidemill_engine.onnx.bit_tables import Masks, Tables

RAW = "raw"
"""The input of a forest's rest: raw scores [N, 1]."""
_BLOCK, _STEP = 64, 16


class BitForest:
    """A forest read from ONNX bytes, and the rest of its graph as a model from `RAW` on."""

    def __init__(self, tables: Tables, rest: bytes) -> None:
        self.splits, self._leaves, self._base = tables
        self.rest = rest

    def raw_scores(self, rows: Float32s) -> Float32s:
        """Raw scores [N, 1] of rows [N, F]."""
        scores = np.empty(len(rows), np.float32)
        _score(np.require(rows, np.float32, ["C", "W"]), (*self.splits, *self._leaves), self._base, scores)
        return scores[:, None]

    def probes(self, width: int, count: int) -> Float32s:
        """Rows [count, width] that lie at the thresholds, one float32 beside them, and at nulls: where errors show."""
        made = np.random.default_rng(1)
        thresholds, features = self.splits.thresholds, self.splits.features
        rows = made.normal(size=(count, width)).astype(np.float32)
        for feature in np.unique(features):
            own = made.choice(thresholds[features == feature], count)
            towards = made.choice(np.array([-np.inf, 0, np.inf], np.float32), count)
            rows[:, feature] = np.where(towards == 0, own, np.nextafter(own, towards))
        rows[made.random(rows.shape) < 0.1] = np.nan  # noqa: PLR2004 - a tenth
        return rows


def bit_forest(data: bytes, width: int) -> BitForest | None:
    """The forest of a model that takes rows of `width` features; None for another than this reader knows."""
    model = ModelProto.FromString(data)
    graph = model.graph
    first = graph.node[0]
    readers = [node for node in graph.node if {graph.input[0].name, first.output[0]} & set(node.input)]
    if first.op_type != "TreeEnsembleRegressor" or len(graph.input) != 1 or len(readers) != len((first, "its reader")):
        return None
    tables = bit_tables.tables(first, width)
    return None if tables is None else BitForest(tables, _rest(model, first.output[0]))


def warm_up() -> None:
    """Compile the usual forest's kernels, or find them compiled."""
    BitForest(bit_tables.warm_up(), b"").raw_scores(np.zeros((1, 1), np.float32))


def _rest(model: ModelProto, scores: str) -> bytes:
    """The model without its forest, whose output becomes the input; the model is not whole any more."""
    del model.graph.node[0], model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(scores, TensorProto.FLOAT, ["N", 1]))
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _zeros(_context: Any, bits: Any) -> Any:  # noqa: ANN401 - numba's own objects
    """The number of the lowest bit that is set; bits may not be zero."""

    def generate(_: Any, builder: Any, __: Any, arguments: Any) -> Any:  # noqa: ANN401
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return bits(bits), generate


_lowest: Any = intrinsic(_zeros)
_Forest = tuple[Int32s, Float32s, Masks, Int32s, Int32s, Float32s, Int32s]
"""`Splits` and `Leaves`: a cache of machine code that names no class outlives every class."""
_compiled = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")


@_compiled
def _many(count: int, columns: Float32s, forest: _Forest, bits: Masks, totals: Float32s) -> None:
    """The sums over the trees for `count` rows in columns [F, B]: the same for each, whoever is beside it."""
    features, thresholds, masks, starts, seconds, values, places = forest
    every = masks[0] | ~masks[0]
    totals[:] = np.float32(0.0)
    for tree in range(len(places)):
        for row in range(count):
            bits[row] = every
        for split in range(starts[tree], seconds[tree]):
            column, threshold, mask = columns[features[split]], thresholds[split], masks[split]
            for row in range(count):
                bits[row] &= mask if column[row] > threshold else every
        for split in range(seconds[tree], starts[tree + 1]):
            column, threshold, mask = columns[features[split]], thresholds[split], masks[split]
            for row in range(count):
                bits[row] &= every if column[row] <= threshold else mask
        place = places[tree]
        for row in range(count):
            totals[row] += values[place + np.int64(_lowest(bits[row]))]


@_compiled
def _score(rows: Float32s, forest: _Forest, base: np.float32, scores: Float32s) -> None:
    """Sums and base of rows [N, F], in blocks that stand as columns."""
    count, width = rows.shape
    columns = np.zeros((width, _BLOCK), np.float32)
    bits, totals = np.empty(_BLOCK, forest[2].dtype), np.empty(_BLOCK, np.float32)
    for first in range(0, count, _BLOCK):
        have = min(_BLOCK, count - first)
        for row in range(have):
            for feature in range(width):
                columns[feature, row] = rows[first + row, feature]
        _many((have + _STEP - 1) // _STEP * _STEP, columns, forest, bits, totals)
        for row in range(have):
            scores[first + row] = totals[row] + base
