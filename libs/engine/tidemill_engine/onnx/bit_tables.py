"""The tables of a forest without branches, from the node of an ONNX graph: read by columns, walked by compiled code.

A model is opened beside a process that answers requests, so what holds the interpreter's lock is kept to a few
conversions of whole columns.
"""

from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, helper

from tidemill_engine.arrays import Bools, Float32s, Int32s, Int64s

MOST_LEAVES = 64
_SETTINGS = {
    "aggregate_function": b"SUM", "n_targets": 1, "post_transform": b"NONE",
}  # fmt: skip
_UNREAD = "nodes_hitrates"
_SPLIT, _LEAF = b"BRANCH_LEQ", b"LEAF"
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


class Tables(NamedTuple):
    """Of a forest, and what is added to its sums."""

    splits: Splits
    leaves: Leaves
    base: np.float32


def tables(forest: NodeProto, width: int) -> Tables | None:
    """The tables of a `TreeEnsembleRegressor` over `width` features; None for another than this reader knows.

    It sums over trees of at most 64 leaves with one target, which go left where `x <= threshold`.
    """
    try:
        given = {item.name: _value(item) for item in forest.attribute if item.name != _UNREAD}
        if any(given.pop(name, wanted) != wanted for name, wanted in _SETTINGS.items()):
            return None
        base = given.pop("base_values", ())
        if len(base) > 1 or given.pop("target_ids").any():
            return None
        splits, leaves = _tables(_nodes(given, width))
    except (KeyError, IndexError, ValueError):
        return None
    return Tables(splits, leaves, np.float32([*base, 0.0][0]))


def warm_up() -> Tables:
    """Compile what walks trees, or find it compiled; the tables of one split."""
    zeros, leaves = np.zeros(3, np.int64), np.array([False, True, True])
    none = zeros.astype(np.float32)
    split = _Nodes(np.array([0, 3]), leaves, zeros, none, leaves, zeros + 1, zeros + 2, none)
    return Tables(*_tables(split), np.float32(0.0))


def _value(attribute: AttributeProto) -> Any:  # noqa: ANN401 - what an attribute can hold
    """A list of numbers as an array, everything else as onnx has it."""
    if attribute.type == AttributeProto.INTS:
        return np.fromiter(attribute.ints, np.int64, len(attribute.ints))
    if attribute.type == AttributeProto.FLOATS:
        return np.fromiter(attribute.floats, np.float32, len(attribute.floats))
    return helper.get_attribute_value(attribute)


class _Nodes(NamedTuple):
    """All nodes, tree by tree, in each tree by their numbers: [M] each, `starts` [T + 1]; children are places here."""

    starts: Int64s
    is_leaf: Bools
    features: Int64s
    thresholds: Float32s
    nan_left: Bools
    left: Int64s
    right: Int64s
    values: Float32s


def _nodes(given: dict[str, Any], width: int) -> _Nodes:
    """The nodes of the trees in their order; raises KeyError, IndexError or ValueError for what is unknown."""
    modes, treeids, numbers = (given.pop(f"nodes_{name}") for name in ("modes", "treeids", "nodeids"))
    if not set(modes) <= {_SPLIT, _LEAF}:
        raise ValueError("another comparison")
    starts = np.concatenate(([0], np.flatnonzero(np.diff(treeids)) + 1, [len(treeids)]))
    first, roots = np.repeat(starts[:-1], np.diff(starts)), treeids[starts[:-1]]
    places = first + numbers
    if len(np.unique(roots)) != len(roots) or not _are_in_order(places, numbers, starts):
        raise ValueError("trees that are not one after another, or gaps between the numbers of nodes")
    order = np.argsort(places)
    columns = [given.pop(f"nodes_{name}")[order] for name in ("featureids", "values", "truenodeids", "falsenodeids")]
    features, thresholds, left, right = columns
    missing = given.pop("nodes_missing_value_tracks_true", np.zeros(len(places), np.int64))[order]
    is_leaf = np.array([mode == _LEAF for mode in modes])[order]
    asked = features[~is_leaf]
    if (asked < 0).any() or (asked >= width).any() or np.isnan(thresholds[~is_leaf]).any():
        raise ValueError("a feature that is not there, or a threshold that is no number")
    values = _values(given, roots, starts)
    if given:
        raise ValueError("attributes of another kind of forest")
    return _Nodes(starts, is_leaf, features, thresholds, missing != 0, first + left, first + right, values)


def _are_in_order(places: Int64s, numbers: Int64s, starts: Int64s) -> bool:
    """Whether each tree's nodes are numbered from 0 on without a gap."""
    is_own = (numbers >= 0) & (places < np.repeat(starts[1:], np.diff(starts)))
    return bool(is_own.all()) and bool((np.bincount(places) == 1).all())


def _values(given: dict[str, Any], roots: Int64s, starts: Int64s) -> Float32s:
    """What stands at each node [M]; `roots` are the numbers of the trees [T]."""
    trees, numbers, weights = (given.pop(f"target_{name}") for name in ("treeids", "nodeids", "weights"))
    sorting = np.argsort(roots)
    found = sorting[np.minimum(np.searchsorted(roots[sorting], trees), len(roots) - 1)]
    places = starts[found] + numbers
    if (roots[found] != trees).any() or (numbers < 0).any() or (places >= starts[found + 1]).any():
        raise ValueError("values of nodes that are not there")
    values = np.zeros(starts[-1], np.float32)
    values[places] = weights
    return values


def _tables(nodes: _Nodes) -> tuple[Splits, Leaves]:
    """Raises ValueError for what is not one tree each, or one with too many leaves."""
    leaves = int(nodes.is_leaf.sum())
    order, ordered = np.empty(len(nodes.is_leaf) - leaves, np.int64), np.empty(leaves, np.int64)
    masks, bounds = np.empty(len(order), np.uint64), np.zeros((len(nodes.starts), 3), np.int64)
    if not _walk((*nodes[:2], *nodes[4:7]), (order, masks, ordered, bounds)):
        raise ValueError("not one tree, or one with too many leaves")
    starts, seconds, places = (np.ascontiguousarray(column, np.int32) for column in bounds.T)
    is_small = bool((np.diff(places) <= 32).all())  # noqa: PLR2004 - bits
    splits = Splits(
        nodes.features[order].astype(np.int32), nodes.thresholds[order],
        masks.astype(np.uint32) if is_small else masks, starts, seconds[1:],
    )  # fmt: skip
    return splits, Leaves(nodes.values[ordered], places[:-1])


_Trees = tuple[Int64s, Bools, Bools, Int64s, Int64s]
"""`starts`, `is_leaf`, `nan_left`, `left` and `right` of `_Nodes`."""
_Walked = tuple[Int64s, NDArray[np.uint64], Int64s, Int64s]
"""Places of the splits as `Splits` has them [S], their masks [S], places of the leaves [L], and bounds [T + 1, 3].

Bounds: where a tree's splits begin, and its leaves (columns 0 and 2, the last row is the end), and in the row behind
the tree's where those splits begin that send nulls to the right.
"""
_compiled = numba.njit(cache=True, nogil=True, fastmath=False, error_model="numpy")


@_compiled
def _walk(trees: _Trees, out: _Walked) -> bool:
    """Go through every tree from left to right; false for what is not one tree, or one with too many leaves."""
    starts, is_leaf, nan_left, left, right = trees
    order, masks, ordered, bounds = out
    found, between = np.empty(MOST_LEAVES, np.int64), np.empty((MOST_LEAVES, 2), np.uint64)
    for tree in range(len(starts) - 1):
        low, high, first = starts[tree], starts[tree + 1], bounds[tree, 2]
        root = _root(is_leaf, left, right, low, high)
        if root < 0:
            return False
        splits = _visit(root, (is_leaf, left, right), ordered[first:], found, between)
        if 2 * splits + 1 != high - low:  # some are in a ring of their own
            return False
        at = bounds[tree, 0]
        for is_left in (True, False):
            for place in range(splits):
                if nan_left[found[place]] == is_left:
                    order[at] = found[place]
                    masks[at] = ~((np.uint64(1) << between[place, 1]) - (np.uint64(1) << between[place, 0]))
                    at += 1
            if is_left:
                bounds[tree + 1, 1] = at
        bounds[tree + 1, 0], bounds[tree + 1, 2] = at, first + splits + 1
    return True


@_compiled
def _root(is_leaf: Bools, left: Int64s, right: Int64s, low: int, high: int) -> int:
    """The node of nodes `low` to `high` that is nobody's child, all others being one's each; -1 without such a one."""
    parents = np.zeros(high - low, np.int64)
    if high - low > 2 * MOST_LEAVES - 1:
        return -1
    for node in range(low, high):
        if not is_leaf[node]:
            for child in (left[node], right[node]):
                if child < low or child >= high:
                    return -1
                parents[child - low] += 1
    root = -1
    for node in range(low, high):
        if parents[node - low] > 1 or (parents[node - low] == 0 and root >= 0):
            return -1
        if parents[node - low] == 0:
            root = node
    return root


@_compiled
def _visit(
    node: int, tree: tuple[Bools, Int64s, Int64s], ordered: Int64s, found: Int64s, between: NDArray[np.uint64]
) -> int:
    """Leaves and splits below a node from left to right, and between which leaves a split's left side is."""
    is_leaf, left, right = tree
    stack, firsts = np.empty(MOST_LEAVES, np.int64), np.empty(MOST_LEAVES, np.uint64)
    depth, splits, leaves = 0, 0, 0
    while True:
        while not is_leaf[node]:
            stack[depth], firsts[depth] = node, leaves
            depth += 1
            node = left[node]
        ordered[leaves] = node
        leaves += 1
        if depth == 0:
            return splits
        depth -= 1
        found[splits], between[splits, 0], between[splits, 1] = stack[depth], firsts[depth], leaves
        splits += 1
        node = right[stack[depth]]
