"""What every trainer asks of its rows."""

import numpy as np

from tidemill_engine.arrays import Float32s, Float64s

_TABLE = 2


def check_training_rows(features: Float32s, labels: Float64s) -> None:
    """Raises ValueError unless features are float32 [N, F], none infinite, and labels [N] hold 0 and 1, both."""
    if features.dtype != np.float32 or features.ndim != _TABLE:
        raise ValueError("features must be float32 [N, F]: training on float64 would split where serving cannot")
    if labels.shape != (len(features),):
        raise ValueError(f"{len(features)} rows and labels of shape {labels.shape}")
    if np.isinf(features).any():
        raise ValueError("a feature is infinite")
    positives = int(np.count_nonzero(labels == 1))
    if positives + int(np.count_nonzero(labels == 0)) != len(labels):
        raise ValueError("labels must be 0 or 1")
    if positives in {0, len(labels)}:
        raise ValueError("labels of one class only")
