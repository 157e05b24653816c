"""Reads arrays of numbers straight from the bytes of JSON texts into float32, and copies their text for the log.

It takes JSON's grammar exactly (RFC 8259, section 6), and every number is the float64 nearest to its text before it is
rounded to float32, as with any other reader. Up to 18 digits are one 64-bit integer times a power of ten: exact in one
operation where both are exact in float64 (Clinger, 1990), else by one or two multiplications with a power of 128 bits
(Lemire, "Number parsing at a gigabyte per second", 2021). What neither can decide is left to another reader.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray

Float32s = NDArray[np.float32]
Int64s = NDArray[np.int64]
Bytes = NDArray[np.uint8]
LONGEST = 25
"""Characters of a number that is taken: those of any float64 in its shortest form."""
_LEAST, _MOST, _EXACT = -330, 300, 22
_MORE_TEXT = 2
"""Bytes of text for each byte read, at most: a row of one digit gets brackets."""


class Places(NamedTuple):
    """Where to read: text `n` opens its array at `starts[n]` of all bytes and must hold `heights[n]` rows."""

    raw: bytes
    starts: Sequence[int]
    heights: Sequence[int]


class Arrays(NamedTuple):
    """What was read.

    `texts[n]` is `[a,b],[c,d]`, a list for each row, without outer brackets; None where text `n` is not for this
    reader, whose rows are zero. `ends` are the places behind each row in its text, of all rows.
    """

    texts: list[memoryview | None]
    ends: Int64s


def read_arrays(places: Places, values: Float32s) -> Arrays:
    """Fill the first rows of `values` [N, F]: of each text its rows, one text after the other."""
    raw = np.frombuffer(places.raw, np.uint8)
    heights = np.array(places.heights, np.int64)
    ends, text = np.empty(len(values), np.int64), np.empty(_MORE_TEXT * len(raw) + 2, np.uint8)
    marks = np.empty((len(heights), 2), np.int64)
    _read_all(raw, np.array(places.starts, np.int64), heights, values, (text, ends, marks))
    view = memoryview(text)  # type: ignore[arg-type]  # numpy's arrays are buffers
    return Arrays([None if low < 0 else view[low:high] for low, high in marks.tolist()], ends)


def warm_up() -> None:
    """Compile, or find it compiled."""
    read_arrays(Places(b"[1.5]", [0], [1]), np.empty((1, 1), np.float32))


def _powers() -> NDArray[np.uint64]:
    """High and low half of each power of ten from `_LEAST` to `_MOST`: its first 128 bits, rounded down."""
    halves = []
    for exponent in range(_LEAST, _MOST + 1):
        power = 10 ** abs(exponent)
        bits = power.bit_length()
        if exponent < 0:
            top = (1 << (bits + 128)) // power
            top >>= top.bit_length() - 128
        else:
            top = power >> (bits - 128) if bits >= 128 else power << (128 - bits)  # noqa: PLR2004 - two halves
        halves.append((top >> 64, top & (2**64 - 1)))
    return np.array(halves, np.uint64)


# numba takes these for constants; an unsigned number beside a signed one would become a float.
_POWERS, _EXACT_POWERS = _powers(), np.array([10.0**exponent for exponent in range(_EXACT + 1)])
_ZERO, _ONE, _TEN, _HALF, _LOW32 = (np.uint64(value) for value in (0, 1, 10, 32, 0xFFFFFFFF))
_BELOW, _WHOLE, _PARITY, _TOP, _NINE = (np.uint64(value) for value in (0x1FF, 1 << 53, 3, 63, 9))
_MANY = np.uint64(10**17)
_BIAS, _HIGHEST = 64 + 1023, 2046
_TWOS = np.array([2.0 ** (power - 1075) for power in range(_HIGHEST + 1)])
_OPEN, _CLOSE, _COMMA, _MINUS, _PLUS, _POINT, _NOUGHT, _NINTH, _BIG_E, _SMALL_E = b"[],-+.09Ee"
_compiled = numba.njit(cache=True, nogil=True, error_model="numpy")


@_compiled
def _product(a: Any, b: Any) -> tuple[Any, Any]:  # noqa: ANN401 - unsigned, 64 bits
    """High and low half of a product."""
    a_high, a_low, b_high, b_low = a >> _HALF, a & _LOW32, b >> _HALF, b & _LOW32
    low = a_low * b_low
    cross = a_high * b_low + (low >> _HALF)
    other = a_low * b_high + (cross & _LOW32)
    return a_high * b_high + (cross >> _HALF) + (other >> _HALF), (other << _HALF) | (low & _LOW32)


@_compiled
def scaled(digits: Any, exponent: int) -> float:  # noqa: ANN401 - unsigned, 64 bits
    """The float64 nearest to `digits` (not 0) times ten to the `exponent`; NaN where that is not clear."""
    if exponent < _LEAST or exponent > _MOST:
        return np.nan
    zeros = 0
    for step in (32, 16, 8, 4, 2, 1):
        if digits >> np.uint64(64 - step) == _ZERO:
            digits <<= np.uint64(step)
            zeros += step
    high, low = _product(digits, _POWERS[exponent - _LEAST, 0])
    if high & _BELOW == _BELOW and low + digits < digits:  # the power's lower half could carry into the bits kept
        more, rest = _product(digits, _POWERS[exponent - _LEAST, 1])
        merged = low + more
        if merged < low:
            high += _ONE
        if high & _BELOW == _BELOW and merged + _ONE == _ZERO and rest + digits < digits:
            return np.nan
        low = merged
    top = high >> _TOP
    kept = high >> (top + _NINE)  # 53 bits and the one to round by
    if low == _ZERO and high & _BELOW == _ZERO and kept & _PARITY == _ONE:
        return np.nan  # half-way as far as one sees
    kept = (kept + (kept & _ONE)) >> _ONE
    # log2 of the power of ten by a multiplication, less the places that the shifts have moved.
    power = ((217706 * exponent) >> 16) + _BIAS - zeros - (1 - np.int64(top))
    if kept >= _WHOLE:
        kept >>= _ONE
        power += 1
    if power < 1 or power > _HIGHEST:  # subnormal or infinite
        return np.nan
    return float(np.float64(kept) * _TWOS[power])


@_compiled
def _exponent(raw: Bytes, at: int) -> tuple[int, int]:
    """(place behind, power of ten) of an exponent whose letter stands before `at`; -1 for none."""
    size, sign = len(raw), 1
    if at < size and (raw[at] == _MINUS or raw[at] == _PLUS):
        sign = -1 if raw[at] == _MINUS else 1
        at += 1
    first, power = at, 0
    while at < size and _NOUGHT <= raw[at] <= _NINTH and at - first < 4:  # noqa: PLR2004 - more is out of range
        power = power * 10 + int(raw[at] - _NOUGHT)
        at += 1
    return (at, sign * power) if at > first else (-1, 0)


@_compiled
def _number(raw: Bytes, at: int) -> tuple[int, float]:
    """(place behind, value) of the number that begins at `at`; -1 for what is none or not for this reader."""
    size, begin, refused = len(raw), at, (-1, 0.0)
    is_negative = at < size and raw[at] == _MINUS
    at += 1 if is_negative else 0
    digits, exponent, first, is_whole = _ZERO, 0, at, True
    while at < size and _NOUGHT <= raw[at] <= _NINTH and digits < _MANY:
        digits = digits * _TEN + np.uint64(raw[at] - _NOUGHT)
        at += 1
    if at == first or (raw[first] == _NOUGHT and at - first > 1):
        return refused
    if at < size and raw[at] == _POINT:
        at += 1
        first, is_whole = at, False
        while at < size and _NOUGHT <= raw[at] <= _NINTH and digits < _MANY:
            digits = digits * _TEN + np.uint64(raw[at] - _NOUGHT)
            at += 1
        exponent = first - at
        if exponent == 0:
            return refused
    if at < size and (raw[at] == _SMALL_E or raw[at] == _BIG_E):
        at, power = _exponent(raw, at + 1)
        exponent, is_whole = exponent + power, False
    if at < 0 or at - begin > LONGEST or (is_negative and is_whole and digits == _ZERO):
        return refused
    if digits <= _WHOLE and -_EXACT <= exponent <= _EXACT:
        value = float(digits)
        value = value / _EXACT_POWERS[-exponent] if exponent < 0 else value * _EXACT_POWERS[exponent]
    else:
        value = scaled(digits, exponent) if digits != _ZERO else 0.0
    return at, -value if is_negative else value


@_compiled
def _blanks(raw: Bytes, at: int) -> int:
    """The place behind white space."""
    while at < len(raw) and (raw[at] == 32 or raw[at] == 10 or raw[at] == 13 or raw[at] == 9):  # noqa: PLR2004 - ASCII
        at += 1
    return at


@_compiled
def _read_rows(raw: Bytes, at: int, values: Float32s, ends: Int64s, out: tuple[Bytes, int]) -> int:
    """Read rows [N, F] from the array that opens at `at`; the place behind their text, or -1."""
    text, place = out
    start = place
    height, width = values.shape
    if at >= len(raw) or raw[at] != _OPEN:
        return -1
    for row in range(height):
        text[place] = _OPEN
        place += 1
        for column in range(width):
            begin = _blanks(raw, at + 1)
            at, value = _number(raw, begin)
            narrow = np.float32(value)
            if at < 0 or not np.isfinite(narrow):
                return -1
            values[row, column] = narrow
            for taken in range(begin, at):
                text[place] = raw[taken]
                place += 1
            at = _blanks(raw, at)
            is_last = column == width - 1
            if at >= len(raw) or raw[at] != (_CLOSE if is_last and row == height - 1 else _COMMA):
                return -1
            text[place] = _CLOSE if is_last else _COMMA
            place += 1
        ends[row] = place - start
        text[place] = _COMMA
        place += 1
    return place - 1


@_compiled
def _read_all(
    raw: Bytes, starts: Int64s, heights: Int64s, values: Float32s, out: tuple[Bytes, Int64s, Int64s]
) -> None:  # fmt: skip
    """Read all texts; each one's marks are where its copy begins and ends, or -1."""
    text, ends, marks = out
    row, place = 0, 0
    for number in range(len(starts)):
        height = heights[number]
        rows = values[row : row + height]
        end = _read_rows(raw, starts[number], rows, ends[row : row + height], (text, place))
        marks[number, 0], marks[number, 1] = (place, end) if end >= 0 else (-1, -1)
        if end < 0:
            rows[:] = 0.0
        else:
            place = end
        row += height
