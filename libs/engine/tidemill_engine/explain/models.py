"""Explainers of the two model shapes, also out of the bytes of a canonical model."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.explain.paths import expected_value, forest_paths
from tidemill_engine.explain.shapley import shapley_values
from tidemill_engine.onnx.models import CLIP, Forest, LinearModel
from tidemill_engine.onnx.reading import read_model


class Explained(NamedTuple):
    """Of N rows: what each feature adds [N, F] to the base value, and the raw scores [N] that this comes to.

    Raw scores are log-odds: their sigmoid is the model's probability.
    """

    contributions: Float64s
    base: float
    raw: Float64s


Explainer = Callable[[Float32s], Explained]


def forest_explainer(forest: Forest, base_value: float = 0.0) -> Explainer:
    """Shapley values; the base is the mean raw score over the training rows."""
    paths, base = forest_paths(forest), base_value + expected_value(forest)

    def explain(rows: Float32s) -> Explained:
        return Explained(shapley_values(paths, rows), base, forest.raw_scores(rows) + base_value)

    return explain


def linear_explainer(model: LinearModel) -> Explainer:
    """Each feature's own term, which is its Shapley value against a row of means: there the base is the bias."""

    def explain(rows: Float32s) -> Explained:
        values = rows.astype(np.float64)
        scaled = np.clip((values - model.means) / model.scales, -CLIP, CLIP)
        terms = np.where(np.isnan(values), model.null_terms, model.weights * scaled)
        return Explained(terms, model.bias, model.raw_scores(rows))

    return explain


def explainer_of(data: bytes) -> Explainer:
    """The explainer of a canonical model; raises UnsupportedModelError for other bytes."""
    model = read_model(data)
    return linear_explainer(model) if isinstance(model, LinearModel) else forest_explainer(*model)
