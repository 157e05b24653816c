"""Numbers as the shortest decimal that reads back as the same number, into a buffer.

The method is Raffaello Giulietti's ("The Schubfach way to render doubles", 2020): of the decimals inside the interval
that rounds to a number, at one fixed power of ten there are at most a few, and three products with a stored power of
ten in 128 bits tell which is the shortest and nearest. Numbers with at most three decimals are found without it.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import multiply
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.records import as_word

Bytes = NDArray[np.uint8]
LONGEST: Final = 25
"""Bytes that a number takes at most, `null` included."""
_ZERO, _ONE, _TWO, _FOUR, _TEN = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(4), np.uint64(10)
_FRACTION = np.uint64((1 << 52) - 1)
_LARGEST_EXACT: Final = 1e15  # up to here every number with that few decimals has fewer than 17 digits
_FEWEST, _MOST = -292, 324  # powers of ten that a double needs
_WIDEST: Final = 16  # digits before the point, beyond which exponents are written; behind it zeros up to
_DEEPEST: Final = -5


def _power(exponent: int) -> int:
    """10**exponent as 128 bits with the first one set, rounded up."""
    size = _size(exponent)
    if exponent >= 0:
        value = int(10**exponent)
        return value << (127 - size) if size <= 127 else -(-value >> (size - 127))  # noqa: PLR2004 - of 128
    return -(-(1 << (127 - size)) // int(10**-exponent))


def _size(exponent: int) -> int:
    """The largest n for which 2**n is not above 10**exponent."""
    return exponent * 1741647 >> 19


_POWERS = np.array(
    [[_power(n) >> 64, _power(n) & 0xFFFFFFFFFFFFFFFF] for n in range(_FEWEST, _MOST + 1)], np.uint64
)  # fmt: skip
_TENS = np.array([10**n for n in range(20)], np.uint64)
_PAIRS = np.frombuffer(b"".join(b"%02d" % n for n in range(100)), np.uint8).copy()


@inlined
def _scaled(power: int, part: np.uint64) -> np.uint64:
    """The product with a power of ten without its last 128 bits; the last bit says whether any of them was set."""
    high, low = _POWERS[power - _FEWEST, 0], _POWERS[power - _FEWEST, 1]
    _, carried = multiply(low, part)
    middle, top = multiply(high, part)
    summed = middle + carried
    top += np.uint64(summed < middle)
    return top | np.uint64(summed > _ONE)


@kernel
def _nearest(bits: np.uint64) -> tuple[np.uint64, int]:
    """Digits and power of ten of a finite number above zero; digits may end in zeros."""
    fraction, field = bits & _FRACTION, int(np.int64(bits >> np.uint64(52)))
    whole = fraction | (_FRACTION + _ONE) if field else fraction
    power = field - 1075 if field else -1074
    closer = fraction == _ZERO and field > 1
    odd = whole & _ONE
    tens = (power * 1262611 - (524031 if closer else 0)) >> 22
    shift = np.uint64(power + ((-tens * 1741647) >> 19) + 1)
    middle = whole * _FOUR
    low = _scaled(-tens, (middle - (_ONE if closer else _TWO)) << shift) + odd
    here = _scaled(-tens, middle << shift)
    high = _scaled(-tens, (middle + _TWO) << shift) - odd
    digits = here // _FOUR
    if digits >= _TEN:
        short = digits // _TEN
        below, above = low <= short * np.uint64(40), short * np.uint64(40) + np.uint64(40) <= high
        if below != above:
            return short + np.uint64(above), tens + 1
    below, above = low <= digits * _FOUR, digits * _FOUR + _FOUR <= high
    if below != above:
        return digits + np.uint64(above), tens
    half = digits * _FOUR + _TWO
    return digits + np.uint64(here > half or (here == half and digits & _ONE == _ONE)), tens


@inlined
def _few_decimals(value: float) -> tuple[np.uint64, int]:
    """Digits and power of ten of a number with at most three decimals; 1 for a power when it has more."""
    if value < _LARGEST_EXACT / 1000:
        cents = np.rint(value * 100.0)
        if cents / 100.0 == value:
            return np.uint64(np.int64(cents)), -2
        mills = np.rint(value * 1000.0)
        if mills / 1000.0 == value:
            return np.uint64(np.int64(mills)), -3
    elif value < _LARGEST_EXACT and np.floor(value) == value:
        return np.uint64(np.int64(value)), 0
    return _ZERO, 1


@inlined
def _length(digits: np.uint64) -> int:
    n = 1
    while n < 20 and digits >= _TENS[n]:  # noqa: PLR2004 - the length of the table
        n += 1
    return n


@inlined
def _put(out: Bytes, at: int, digits: np.uint64, length: int) -> None:
    end, left = at + length, digits
    while end - at >= 2:  # noqa: PLR2004 - two at a time
        more = left // np.uint64(100)
        pair = int(np.int64(left - more * np.uint64(100)))
        out[end - 2], out[end - 1] = _PAIRS[2 * pair], _PAIRS[2 * pair + 1]
        left, end = more, end - 2
    if end > at:
        out[at] = np.uint8(48 + np.int64(left % _TEN))


@inlined
def put_whole(out: Bytes, at: int, value: int) -> int:
    """Write a whole number that is not negative; returns where it ends."""
    digits = np.uint64(value)
    length = _length(digits)
    _put(out, at, digits, length)
    return int(at + length)


@kernel
def _put_exponent(out: Bytes, start: int, digits: np.uint64, length: int, exponent: int) -> int:
    """Write d.ddde[-]x."""
    at = start
    _put(out, at + 1, digits, length)
    out[at] = out[at + 1]
    at += 1
    if length > 1:
        out[at] = 46
        at += length
    out[at] = 101
    at += 1
    if exponent < 0:
        out[at] = 45
        at += 1
    return put_whole(out, at, abs(exponent))


@kernel
def put_number(out: Bytes, start: int, value: float) -> int:
    """Write a number as JSON (null for one that is not finite); returns where it ends."""
    at = start
    if not np.isfinite(value):
        out[at], out[at + 1], out[at + 2], out[at + 3] = 110, 117, 108, 108
        return int(at + 4)
    if np.signbit(value):
        out[at] = 45
        at += 1
    if value == 0.0:
        out[at], out[at + 1], out[at + 2] = 48, 46, 48
        return int(at + 3)
    digits, power = _few_decimals(abs(value))
    if power > 0:
        digits, power = _nearest(np.uint64(as_word(abs(value))))
    while digits % _TEN == _ZERO:
        digits, power = digits // _TEN, power + 1
    length = _length(digits)
    before = length + power
    if before > _WIDEST or before <= _DEEPEST:
        return _put_exponent(out, at, digits, length, before - 1)
    return _put_plain(out, at, digits, length, before)


@kernel
def _put_plain(out: Bytes, start: int, digits: np.uint64, length: int, before: int) -> int:
    """Write digits with a point and zeros where they are needed."""
    at = start
    if before <= 0:
        out[at], out[at + 1] = 48, 46
        at += 2
        for _ in range(-before):
            out[at] = 48
            at += 1
        _put(out, at, digits, length)
        return int(at + length)
    if before >= length:
        _put(out, at, digits, length)
        at += length
        for _ in range(before - length):
            out[at] = 48
            at += 1
        out[at], out[at + 1] = 46, 48
        return int(at + 2)
    ahead = digits // _TENS[length - before]
    _put(out, at, ahead, before)
    out[at + before] = 46
    _put(out, at + before + 1, digits - ahead * _TENS[length - before], length - before)
    return int(at + length + 1)
