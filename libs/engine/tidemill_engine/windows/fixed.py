"""Exact integers of 128, 192 and 256 bits in 64-bit limbs, least significant first.

A value x becomes the integer k = rint(x * 2**bits) (ties to even). Sums of k are kept in 128 bits (two's complement),
sums of k*k in 192 bits, so no order, batch or partition can change them; they become a float once, correctly rounded,
when read. Input bounds (`batch.value_limits`) leave 31 bits of headroom, one for each doubling of the number of
events, so no accumulator can wrap.
"""

from math import floor, ldexp

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.jit import inlined, kernel

Words = NDArray[np.int64]
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_S32 = np.uint64(32)
_S63 = np.uint64(63)
_S64 = np.uint64(64)
_LOW = np.uint64(0xFFFFFFFF)
_SMALL = 2.0**62
_LIMB = 2.0**64


@inlined
def to_fixed(value: float, scale: float) -> tuple[np.uint64, np.int64]:
    """Limbs of rint(value * scale); |value * scale| must stay under 2**126."""
    scaled = np.rint(value * scale)
    if abs(scaled) < _SMALL:
        small = np.int64(scaled)
        return np.uint64(small), small >> 63
    high = floor(scaled / _LIMB)  # exact: a division by a power of two, then the integer part
    return np.uint64(scaled - high * _LIMB), np.int64(high)


@inlined
def add128(words: Words, at: int, low: np.uint64, high: np.int64) -> None:
    old = np.uint64(words[at])
    new = old + low
    words[at] = np.int64(new)
    words[at + 1] += high + np.int64(new < old)


@inlined
def subtract128(words: Words, at: int, low: np.uint64, high: np.int64) -> None:
    old = np.uint64(words[at])
    words[at] = np.int64(old - low)
    words[at + 1] -= high + np.int64(old < low)


@inlined
def add192(words: Words, at: int, other: Words, other_at: int) -> None:
    carry = _ZERO
    for limb in range(3):
        a, b = np.uint64(words[at + limb]), np.uint64(other[other_at + limb])
        part = a + b
        total = part + carry
        carry = np.uint64(part < a) | np.uint64(total < part)
        words[at + limb] = np.int64(total)


@inlined
def subtract192(words: Words, at: int, other: Words, other_at: int) -> None:
    borrow = _ZERO
    for limb in range(3):
        a, b = np.uint64(words[at + limb]), np.uint64(other[other_at + limb])
        part = a - b
        total = part - borrow
        borrow = np.uint64(a < b) | np.uint64(part < borrow)
        words[at + limb] = np.int64(total)


@inlined
def multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """(low, high) of the 128-bit product."""
    a0, a1, b0, b1 = a & _LOW, a >> _S32, b & _LOW, b >> _S32
    p00, p01, p10, p11 = a0 * b0, a0 * b1, a1 * b0, a1 * b1
    middle = (p00 >> _S32) + (p01 & _LOW) + (p10 & _LOW)
    low = (p00 & _LOW) | (middle << _S32)
    return low, p11 + (p01 >> _S32) + (p10 >> _S32) + (middle >> _S32)


@inlined
def magnitude(low: np.uint64, high: np.int64) -> tuple[np.uint64, np.uint64]:
    """Limbs of the absolute value of a 128-bit integer."""
    if high >= 0:
        return low, np.uint64(high)
    flipped = ~low + _ONE
    return flipped, ~np.uint64(high) + np.uint64(flipped == _ZERO)


@kernel
def square128(low: np.uint64, high: np.uint64) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """The four limbs of the square of an unsigned 128-bit integer."""
    r0, r1 = multiply(low, low)
    r2, r3 = multiply(high, high)
    c0, c1 = multiply(low, high)
    r3 += c1 >> _S63
    c1, c0 = (c1 << _ONE) | (c0 >> _S63), c0 << _ONE
    s1 = r1 + c0
    carry = np.uint64(s1 < c0)
    s2 = r2 + c1
    overflow = np.uint64(s2 < c1)
    s3 = s2 + carry
    return r0, s1, s3, r3 + overflow + np.uint64(s3 < carry)


@kernel
def _leading_zeros(value: np.uint64) -> np.uint64:
    count = _ZERO
    step = _S32
    while step > _ZERO:
        if value >> (_S64 - step) == _ZERO:
            count += step
            value <<= step
        step >>= _ONE
    return count


@kernel
def _round(top: np.uint64, below: np.uint64, sticky: bool, exponent: int) -> float:  # noqa: FBT001 - compiled code takes no keyword-only arguments
    """The float nearest to (top.below) * 2**exponent; `sticky` says that something non-zero follows `below`."""
    shift = _leading_zeros(top)
    if shift > _ZERO:
        top = (top << shift) | (below >> (_S64 - shift))
        below <<= shift
    if sticky or below != _ZERO:
        top |= _ONE  # far below the last bit kept, so it only decides ties
    return ldexp(float(top), int(exponent - np.int64(shift)))


@inlined
def to_float(low: np.uint64, high: np.int64) -> float:
    """The float nearest to a 128-bit integer."""
    if high == np.int64(low) >> 63:
        return float(np.int64(low))
    m0, m1 = magnitude(low, high)
    size = float(m0) if m1 == _ZERO else _round(m1, m0, False, 64)  # noqa: FBT003 - as above
    return -size if high < 0 else size


@kernel
def to_float256(r0: np.uint64, r1: np.uint64, r2: np.uint64, r3: np.uint64) -> float:
    """The float nearest to an unsigned 256-bit integer."""
    if r3 != _ZERO:
        return _round(r3, r2, (r1 | r0) != _ZERO, 192)
    if r2 != _ZERO:
        return _round(r2, r1, r0 != _ZERO, 128)
    if r1 != _ZERO:
        return _round(r1, r0, False, 64)  # noqa: FBT003 - as above
    return float(r0)


@kernel
def spread(count: int, words: Words, sum_at: int, square_at: int) -> float:
    """N * sum(k*k) - sum(k)**2, exact and rounded once: n * (n - 1) times the sample variance of the k."""
    m0, m1 = magnitude(np.uint64(words[sum_at]), words[sum_at + 1])
    b0, b1, b2, b3 = square128(m0, m1)
    n = np.uint64(count)
    a0, h0 = multiply(np.uint64(words[square_at]), n)
    l1, h1 = multiply(np.uint64(words[square_at + 1]), n)
    l2, h2 = multiply(np.uint64(words[square_at + 2]), n)
    a1 = l1 + h0
    h1 += np.uint64(a1 < h0)  # high parts are under 2**31: they cannot wrap
    a2 = l2 + h1
    a3 = h2 + np.uint64(a2 < h1)
    d0 = a0 - b0
    borrow = np.uint64(a0 < b0)
    t1 = a1 - b1
    d1 = t1 - borrow
    borrow = np.uint64(a1 < b1) | np.uint64(t1 < borrow)
    t2 = a2 - b2
    d2 = t2 - borrow
    borrow = np.uint64(a2 < b2) | np.uint64(t2 < borrow)
    return to_float256(d0, d1, d2, a3 - b3 - borrow)
