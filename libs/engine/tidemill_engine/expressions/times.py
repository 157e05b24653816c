"""Parts of dates, in UTC or in an IANA time zone; whole columns and single values by the same integer arithmetic."""

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.expressions.kinds import NULL_TIME

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_DAY = 24 * _HOUR
_BLOCK = 15 * _MINUTE
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_FIRST = -62_135_424_000 * _SECOND  # 0001-01-03: a zone's offset must not leave the calendar
_LAST = 253_402_128_000 * _SECOND  # 9999-12-30
_MAXIMUM_BLOCKS = 200_000
_THURSDAY = 3
Integers = NDArray[np.int64]


class Zone:
    """Offsets of a time zone. Nearly every quarter of an hour has one offset, so they are looked up once and kept."""

    def __init__(self, name: str) -> None:
        """Raises LookupError for a name the time zone database does not know."""
        try:
            self._zone = ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise LookupError(name) from None
        self._blocks: dict[int, int | None] = {}

    def _exact(self, time_us: int) -> int:
        offset = (_EPOCH + timedelta(microseconds=time_us)).astimezone(self._zone).utcoffset()
        return 0 if offset is None else offset // timedelta(microseconds=1)

    def _block(self, block: int) -> int | None:
        if block not in self._blocks:
            if len(self._blocks) >= _MAXIMUM_BLOCKS:
                self._blocks.clear()
            offset = self._exact(block * _BLOCK)
            is_constant = offset == self._exact((block + 1) * _BLOCK)
            self._blocks[block] = offset if is_constant else None
        return self._blocks[block]

    def local(self, time_us: int) -> int:
        """Local time as microseconds since the local 1970-01-01T00:00, for one instant inside the calendar."""
        offset = self._block(time_us // _BLOCK)
        return time_us + (self._exact(time_us) if offset is None else offset)

    def local_column(self, times_us: Integers) -> Integers:
        """`local` of a column."""
        blocks, inverse = np.unique(times_us // _BLOCK, return_inverse=True)
        offsets = [self._block(block) for block in blocks.tolist()]
        shift = np.array([0 if offset is None else offset for offset in offsets], np.int64)[inverse]
        mixed = np.array([offset is None for offset in offsets], np.bool_)[inverse]
        for row in np.flatnonzero(mixed).tolist():
            shift[row] = self._exact(int(times_us[row]))
        return np.asarray(times_us + shift, np.int64)


@lru_cache(maxsize=64)
def zone(name: str) -> Zone:
    """The zone of a name, its offsets shared by all expressions; raises LookupError."""
    return Zone(name)


def _date(local: int) -> date:
    return date.fromordinal(_EPOCH_ORDINAL + local // _DAY)


_SIMPLE: Mapping[str, Callable[[int], int]] = {
    "hour": lambda local: local // _HOUR % 24,
    "minute": lambda local: local // _MINUTE % 60,
    "minute_of_day": lambda local: local // _MINUTE % 1440,
    "day_of_week": lambda local: (local // _DAY + _THURSDAY) % 7,
}
_SCALARS: Mapping[str, Callable[[int], int]] = {
    **_SIMPLE,
    "day": lambda local: _date(local).day,
    "month": lambda local: _date(local).month,
    "year": lambda local: _date(local).year,
}


def _calendar(part: str, local: Integers) -> Integers:
    days = (local // _DAY).astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    if part == "day":
        return np.asarray((days - months).astype(np.int64) + 1, np.int64)
    if part == "month":
        return np.asarray(months.astype(np.int64) % 12 + 1, np.int64)
    return np.asarray(months.astype("datetime64[Y]").astype(np.int64) + 1970, np.int64)


PARTS = frozenset(_SCALARS)


def part_of(part: str, where: Zone | None) -> tuple[Callable[[Integers], NDArray[np.float64]], Callable[[int], float]]:
    """The vector and the scalar function of a part; null for null and outside the calendar's years 1 to 9999."""
    scalar_part = _SCALARS[part]

    def vector(times: Integers) -> NDArray[np.float64]:
        known = (times > _FIRST) & (times < _LAST)
        local = times[known] if where is None else where.local_column(times[known])
        out = np.full(len(times), np.nan)
        # The arithmetic of a column is that of a number: numpy's // and % floor as Python's do.
        out[known] = _SIMPLE[part](local) if part in _SIMPLE else _calendar(part, local)  # type: ignore[arg-type]
        return out

    def scalar(time: int) -> float:
        if not _FIRST < time < _LAST or time == NULL_TIME:
            return float("nan")
        return float(scalar_part(time if where is None else where.local(time)))

    return vector, scalar
