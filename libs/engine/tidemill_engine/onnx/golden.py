"""Fixed rows on which every model must answer with finite numbers before it may serve."""

import numpy as np

from tidemill_engine.arrays import Float32s

_EXTREMES = (0.0, 1.0, -1.0, 0.5, 1e-6, 1e6, -1e6, 1e30, -1e30)
_SCRAMBLED_ROWS = 6


def golden_inputs(n_features: int, *, nulls: bool = True) -> Float32s:
    """The same float32 rows [k, n_features] on every machine: constants up to 1e30, ramps, scrambled values, and nulls.

    `nulls=False` leaves the NaN rows out, for imported models that never promised to take them.
    """
    columns = np.arange(n_features, dtype=np.float64)
    rows = [np.full(n_features, value) for value in _EXTREMES]
    rows += [columns, -columns, np.where(columns % 2 == 0, 1e3, -1e3)]
    rows += [_scrambled(columns, row) for row in range(_SCRAMBLED_ROWS)]
    if nulls:
        rows += [
            np.full(n_features, np.nan),
            np.where(columns % 2 == 0, np.nan, 0.0),
            np.where(columns % 2 == 1, np.nan, 0.0),
        ]
        rows += [np.where(columns == columns[-1], np.nan, _scrambled(columns, _SCRAMBLED_ROWS))]
    return np.stack(rows).astype(np.float32)


def _scrambled(
    columns: np.ndarray[tuple[int], np.dtype[np.float64]], row: int
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Values in [-8, 8) from a multiplicative hash of the cell's number (Knuth, 2^32 divided by the golden ratio)."""
    cells = (columns.astype(np.uint64) + np.uint64(1)) * np.uint64(64) + np.uint64(row)
    hashed = (cells * np.uint64(2_654_435_761)) % np.uint64(2**32)
    return hashed.astype(np.float64) / 2**28 - 8.0
