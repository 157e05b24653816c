"""LightGBM as a pure function: the same rows, parameters and seed give the same trees."""

from collections.abc import Mapping

import numpy as np

from tidemill_engine.arrays import Float32s, Float64s
from tidemill_engine.learn.fitted import FittedForest
from tidemill_engine.learn.rows import check_training_rows
from tidemill_engine.onnx import parse_lightgbm

Parameter = int | float | bool | str

DEFAULTS: Mapping[str, Parameter] = {
    "num_iterations": 200,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "min_data_in_leaf": 100,
    "lambda_l2": 1.0,
}
"""Used where a pipeline says nothing."""

TUNABLE = frozenset({
    *DEFAULTS, "bagging_fraction", "bagging_freq", "extra_trees", "feature_fraction", "feature_fraction_bynode",
    "lambda_l1", "max_bin", "max_delta_step", "max_depth", "min_data_in_bin", "min_gain_to_split",
    "min_sum_hessian_in_leaf", "path_smooth", "scale_pos_weight",
})  # fmt: skip
"""Parameters a pipeline may set, by LightGBM's own main names; the rest could break determinism or the ONNX form."""

_SEEDS = (
    "seed",
    "bagging_seed",
    "feature_fraction_seed",
    "extra_seed",
    "data_random_seed",
    "objective_seed",
    "drop_seed",
)
_FORCED: Mapping[str, Parameter] = {
    "objective": "binary",
    "boosting": "gbdt",
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
    "zero_as_missing": False,
    "use_missing": True,
}


def fit_lightgbm(features: Float32s, labels: Float64s, params: Mapping[str, Parameter], seed: int) -> FittedForest:
    """Boosted trees on float32 rows [N, F] (NaN is null) and labels [N] of 0 and 1.

    Raises:
        ValueError: rows of another shape or type, one class only, an infinite feature, a parameter outside `TUNABLE`.
    """
    check_training_rows(features, labels)
    unknown = sorted(set(params) - TUNABLE)
    if unknown:
        raise ValueError(f"LightGBM parameters that may not be set: {', '.join(unknown)}")
    import lightgbm  # noqa: PLC0415 - the one heavy import of the engine; only a training process pays for it

    settings = {**DEFAULTS, **params, **_FORCED, **dict.fromkeys(_SEEDS, seed)}
    rounds = int(settings.pop("num_iterations"))
    data = lightgbm.Dataset(np.ascontiguousarray(features), labels, params=settings, free_raw_data=True)
    booster = lightgbm.train(settings, data, num_boost_round=rounds)
    return FittedForest(parse_lightgbm(booster.model_to_string(num_iteration=-1)))
