"""A forest as the paths to its leaves, with splits on the same feature merged: what Shapley values are computed from.

Along a path a feature is either inside of one interval or not, whatever the others are; and a share of the training
rows went the path's way at the feature's splits. Nothing else of a tree matters to its Shapley values.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tidemill_engine.arrays import Bools, Float64s, Int32s, Int64s
from tidemill_engine.onnx.models import Forest, Tree


class Paths(NamedTuple):
    """P paths with E merged splits: those of path p are `start[p]` to `start[p + 1]`.

    Of a split: the feature, the interval (low, high] of values that go on, whether a null does, and the share of
    training rows that did. Of a path: the value of its leaf.
    """

    start: Int64s
    feature: Int32s
    low: Float64s
    high: Float64s
    takes_null: Bools
    share: Float64s
    value: Float64s


class _Split(NamedTuple):
    low: float = -np.inf
    high: float = np.inf
    takes_null: bool = True
    share: float = 1.0


_Path = dict[int, _Split]


def forest_paths(forest: Forest) -> Paths:
    """All paths of all trees."""
    start, splits, values = [0], list[tuple[int, _Split]](), list[float]()
    for tree in forest.trees:
        for leaf, path in _paths(tree):
            splits += path.items()
            start.append(len(splits))
            values.append(float(tree.leaf_value[leaf]))
    return Paths(
        np.array(start, np.int64), np.array([feature for feature, _ in splits], np.int32),
        np.array([split.low for _, split in splits]), np.array([split.high for _, split in splits]),
        np.array([split.takes_null for _, split in splits], np.bool_),
        np.array([split.share for _, split in splits]), np.array(values),
    )  # fmt: skip


def expected_value(forest: Forest) -> float:
    """The mean raw score over the training rows, as the leaves' weights tell it."""
    return float(sum(np.average(tree.leaf_value, weights=_weights(tree)) for tree in forest.trees))


def _weights(tree: Tree) -> Float64s:
    return tree.leaf_weight if tree.leaf_weight.sum() > 0 else np.ones(len(tree.leaf_value))


def _paths(tree: Tree) -> Iterator[tuple[int, _Path]]:
    """Each leaf and the merged splits on the way to it."""
    weights = _weights(tree)
    if not len(tree.feature):
        yield 0, {}
        return
    below = _rows_below(tree, weights)
    waiting: list[tuple[int, _Path]] = [(0, {})]
    while waiting:
        node, path = waiting.pop()
        if node < 0:
            yield ~node, path
            continue
        feature, threshold = int(tree.feature[node]), float(tree.threshold[node])
        for child, is_left in ((int(tree.left[node]), True), (int(tree.right[node]), False)):
            old = path.get(feature, _Split())
            count = weights[~child] if child < 0 else below[child]
            new = _Split(
                old.low if is_left else max(old.low, threshold), min(old.high, threshold) if is_left else old.high,
                old.takes_null and bool(tree.nan_left[node]) == is_left,
                old.share * (count / below[node] if below[node] > 0 else 0.0),
            )  # fmt: skip
            waiting.append((child, {**path, feature: new}))


def _rows_below(tree: Tree, weights: Float64s) -> Float64s:
    """Training rows at each split [S]; children may be numbered in any order."""
    counts = np.full(len(tree.feature), -1.0)
    waiting = [0]
    while waiting:
        node = waiting[-1]
        children = int(tree.left[node]), int(tree.right[node])
        unknown = [child for child in children if child >= 0 and counts[child] < 0]
        if unknown:
            waiting += unknown
            continue
        counts[node] = sum(weights[~child] if child < 0 else counts[child] for child in children)
        waiting.pop()
    return counts
