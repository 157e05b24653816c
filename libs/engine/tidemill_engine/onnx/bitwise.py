"""Raw scores of a written forest without a branch: each leaf of a tree is a bit, each split clears some of them.

Leaves are numbered from left to right. A row that goes right at a split can end in no leaf to the left of it, whose
bits the split's mask clears; it does not matter in which order the splits are asked, nor whether the row comes past
them. The lowest bit that is left is the row's leaf (QuickScorer: Lucchese et al., SIGIR 2015, here tree by tree for
many rows at once). Leaves are added up in float32 in the order of the trees, the base comes last, as in onnxruntime.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from tidemill_engine.arrays import Float32s, Int32s

RAW = "raw"
"""The input of a forest's rest: raw scores [N, 1]."""
_MOST_LEAVES = 64
_BLOCK, _STEP = 64, 16
_SETTINGS = {
    "aggregate_function": b"SUM", "n_targets": 1, "post_transform": b"NONE",
}  # fmt: skip
Masks = NDArray[np.uint32] | NDArray[np.uint64]


class Splits(NamedTuple):
    """All splits, tree by tree, in each tree those first at which a null goes left: [S] each, and where trees begin.

    `starts` is [T + 1], `seconds` [T]: splits `starts[t]` to `seconds[t]` send nulls to the left, from there to
    `starts[t + 1]` to the right. `masks` have the bits that stay when a row goes right.
    """

    features: Int32s
    thresholds: Float32s
    masks: Masks
    starts: Int32s
    seconds: Int32s


class Leaves(NamedTuple):
    """Values of all leaves, tree by tree, and where each tree's begin [T]."""

    values: Float32s
    starts: Int32s


class BitForest:
    """A forest read from ONNX bytes, and the rest of its graph as a model from `RAW` on."""

    def __init__(self, splits: Splits, leaves: Leaves, base: np.float32, rest: bytes) -> None:
        self.splits, self._leaves, self._base, self.rest = splits, leaves, base, rest

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
    """The forest of a model that takes rows of `width` features; None for another than this reader knows.

    It begins with a sum over trees of at most 64 leaves with one target, which go left where `x <= threshold`.
    """
    model = ModelProto.FromString(data)
    graph = model.graph
    first = graph.node[0]
    readers = [node for node in graph.node if {graph.input[0].name, first.output[0]} & set(node.input)]
    if first.op_type != "TreeEnsembleRegressor" or len(graph.input) != 1 or len(readers) != len((first, "its reader")):
        return None
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in first.attribute}
    if any(given.pop(name, wanted) != wanted for name, wanted in _SETTINGS.items()):
        return None
    try:
        trees = _trees(given)
        splits, leaves = _tables([_Walk(tree) for tree in trees])
    except (KeyError, IndexError, ValueError):
        return None
    if not np.isin(splits.features, np.arange(width)).all() or np.isnan(splits.thresholds).any():
        return None
    base = np.float32((given.get("base_values") or [0.0])[0])
    return BitForest(splits, leaves, base, _rest(model, first))


def warm_up() -> None:
    """Compile the usual forest's kernels, or find them compiled."""
    starts = np.array([0, 1], np.int32)
    splits = Splits(np.zeros(1, np.int32), np.zeros(1, np.float32), np.ones(1, np.uint32), starts, starts[1:])
    leaves = Leaves(np.zeros(2, np.float32), np.zeros(1, np.int32))
    BitForest(splits, leaves, np.float32(0.0), b"").raw_scores(np.zeros((1, 1), np.float32))


class _Node(NamedTuple):
    feature: int
    threshold: float
    nan_left: bool
    left: int
    right: int
    value: float | None


def _trees(given: dict[str, Any]) -> list[dict[int, _Node]]:
    """Nodes of each tree by number, in the order of the trees; raises KeyError or ValueError for what is unknown."""
    known = {"base_values", "nodes_hitrates"}
    places = zip(given.pop("target_treeids"), given.pop("target_nodeids"), strict=True)
    weights = dict(zip(places, given.pop("target_weights"), strict=True))
    if any(given.pop("target_ids")) or len(given.get("base_values", ())) > 1:
        raise ValueError("more than one target")
    columns = [
        given.pop(f"nodes_{name}")
        for name in ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids")
    ]
    missing = given.pop("nodes_missing_value_tracks_true", None) or [0] * len(columns[0])
    if not known.issuperset(given):
        raise ValueError("attributes of another kind of forest")
    trees: dict[int, dict[int, _Node]] = {}
    for tree, number, mode, feature, threshold, left, right, nan_left in zip(*columns, missing, strict=True):
        if mode not in {b"BRANCH_LEQ", b"LEAF"}:
            raise ValueError("another comparison")
        value = weights.get((tree, number), 0.0) if mode == b"LEAF" else None
        trees.setdefault(tree, {})[number] = _Node(feature, threshold, bool(nan_left), left, right, value)
    return list(trees.values())


class _Walk:
    """One tree from left to right: its leaves' values, and its splits with the leaves to the left of each."""

    def __init__(self, nodes: dict[int, _Node]) -> None:
        self._nodes, self._seen = nodes, set[int]()
        self.values: list[float] = []
        self.splits: list[tuple[_Node, int, int]] = []
        below = {child for node in nodes.values() if node.value is None for child in (node.left, node.right)}
        (root,) = nodes.keys() - below
        self._visit(root)
        if len(self._seen) != len(nodes) or len(self.values) > _MOST_LEAVES:
            raise ValueError("not one tree, or one with too many leaves")

    def _visit(self, number: int) -> None:
        """Depth is bounded by the number of leaves, which is looked at on the way."""
        if number in self._seen or len(self._seen) > 2 * _MOST_LEAVES:
            raise ValueError("not a tree, or one with too many leaves")
        self._seen.add(number)
        node = self._nodes[number]
        if node.value is not None:
            self.values.append(node.value)
            return
        first = len(self.values)
        self._visit(node.left)
        self.splits.append((node, first, len(self.values)))
        self._visit(node.right)


def _tables(walks: Sequence[_Walk]) -> tuple[Splits, Leaves]:
    is_small = all(len(walk.values) <= 32 for walk in walks)  # noqa: PLR2004 - bits
    every = 2**32 - 1 if is_small else 2**64 - 1
    rows: list[tuple[int, float, int]] = []
    starts, seconds, leaves = [0], list[int](), [0]
    for walk in walks:
        for is_left in (True, False):
            rows += [
                (node.feature, node.threshold, every & ~((1 << last) - (1 << first)))
                for node, first, last in walk.splits
                if node.nan_left == is_left
            ]
            (seconds if is_left else starts).append(len(rows))
        leaves.append(leaves[-1] + len(walk.values))
    features, thresholds, masks = zip(*rows, strict=True) if rows else ((), (), ())
    values = np.array([value for walk in walks for value in walk.values], np.float32)
    splits = Splits(
        np.array(features, np.int32), np.array(thresholds, np.float32),
        np.array(masks, np.uint32) if is_small else np.array(masks, np.uint64),
        np.array(starts, np.int32), np.array(seconds, np.int32),
    )  # fmt: skip
    return splits, Leaves(values, np.array(leaves[:-1], np.int32))


def _rest(model: ModelProto, first: NodeProto) -> bytes:
    """The model without its forest, whose output becomes the input."""
    rest = ModelProto()
    rest.CopyFrom(model)
    del rest.graph.node[0], rest.graph.input[:]
    rest.graph.input.append(helper.make_tensor_value_info(first.output[0], TensorProto.FLOAT, ["N", 1]))
    data: bytes = rest.SerializeToString(deterministic=True)
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
