"""The as-of join: for each row the newest feature row of its key before its time.

The rows are sorted, the feature rows are not: each feature row is offered to the first row that may see it, and at the
end every row takes over what its predecessor has if that is newer. Feature rows may therefore come in chunks.
"""

import numba
import numpy as np

from tidemill_engine.arrays import Int64s

NOTHING = -1
_NEVER = int(np.iinfo(np.int64).min)


class AsOf:
    """Finds feature rows for n rows, each given by the code of its key (0 to `keys` - 1) and its time.

    A feature row counts for rows of its key with a later time, or the same one if `inclusive`. Of several with the
    newest time the last one offered counts.
    """

    def __init__(self, codes: Int64s, times_us: Int64s, *, keys: int, inclusive: bool = False) -> None:
        """`codes` and `times_us` are (n,); raises ValueError for a code outside 0 to keys - 1."""
        codes = np.ascontiguousarray(codes, np.int64)
        if len(codes) and not 0 <= codes.min() <= codes.max() < keys:
            raise ValueError("a code of no key")
        self._order = np.lexsort((times_us, codes))
        self._times = np.ascontiguousarray(times_us, np.int64)[self._order]
        self._starts = np.searchsorted(codes[self._order], np.arange(keys + 1)).astype(np.int64)
        self._inclusive = inclusive
        self._best = np.full(len(codes), NOTHING, np.int64)
        self._best_us = np.full(len(codes), _NEVER, np.int64)
        self._offered = 0

    def offer(self, codes: Int64s, times_us: Int64s) -> None:
        """Take feature rows, in any order; a negative code is a key that no row has."""
        codes, times = np.ascontiguousarray(codes, np.int64), np.ascontiguousarray(times_us, np.int64)
        if len(codes) != len(times) or (len(codes) and codes.max() >= len(self._starts) - 1):
            raise ValueError("columns differ in length, or a code of no key")
        index = (self._starts, self._times, self._best, self._best_us)
        _offer(index, codes, times, self._offered, int(self._inclusive))
        self._offered += len(codes)

    def answer(self, *, max_age_us: int | None = None) -> Int64s:
        """Number of each row's feature row (in the order offered, from 0), int64 (n,), -1 where there is none.

        With `max_age_us` a feature row older than that at the row's time is none.
        """
        best, best_us = self._best.copy(), self._best_us.copy()
        _carry(self._starts, best, best_us)
        if max_age_us is not None:
            best[(best >= 0) & (self._times - max_age_us > best_us)] = NOTHING
        found = np.empty_like(best)
        found[self._order] = best
        return found


@numba.njit(cache=True, nogil=True)
def _offer(
    index: tuple[Int64s, Int64s, Int64s, Int64s], codes: Int64s, times: Int64s, first: int, inclusive: int
) -> None:
    starts, rows, best, best_us = index
    for i in range(len(codes)):
        code, time = codes[i], times[i]
        if code < 0:
            continue
        low, end = starts[code], starts[code + 1]
        high = end
        while low < high:
            middle = (low + high) // 2
            if rows[middle] > time or (inclusive == 1 and rows[middle] == time):
                high = middle
            else:
                low = middle + 1
        if low < end and time >= best_us[low]:
            best[low], best_us[low] = first + i, time


@numba.njit(cache=True, nogil=True)
def _carry(starts: Int64s, best: Int64s, best_us: Int64s) -> None:
    for code in range(len(starts) - 1):
        for row in range(starts[code] + 1, starts[code + 1]):
            if best_us[row - 1] > best_us[row]:
                best[row], best_us[row] = best[row - 1], best_us[row - 1]
