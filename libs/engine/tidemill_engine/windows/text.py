"""Vectors as JSON text, many at once."""

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.jit import detached
from tidemill_engine.windows.shortest import LONGEST, put_number

Bytes = NDArray[np.uint8]
_COMMA = 44


@detached
def _put_rows(values: NDArray[np.float64], out: Bytes, ends: NDArray[np.int64]) -> None:
    at = 0
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            if column:
                out[at] = _COMMA
                at += 1
            at = put_number(out, at, values[row, column])
        ends[row] = at


def numbers_text(values: NDArray[np.float64]) -> tuple[Bytes, NDArray[np.int64]]:
    """Each row's numbers as JSON, commas between, without brackets: all rows in one buffer, and where each ends.

    `values` is float64 (n, m); what is not finite becomes null. A number is the shortest text that reads back as the
    same number. Other threads may run Python meanwhile.
    """
    table = np.ascontiguousarray(values, np.float64)
    out, ends = np.empty(table.size * (LONGEST + 1) + 1, np.uint8), np.empty(len(table), np.int64)
    _put_rows(table, out, ends)
    return out, ends
