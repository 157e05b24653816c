"""Limb arithmetic against Python's integers of any size."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidemill_engine.windows import fixed

pytestmark = pytest.mark.timeout(300)  # the first run on a machine compiles the kernels
LIMB = 2**64
EDGES = [0, 1, LIMB - 1, LIMB, LIMB + 1, LIMB * (LIMB - 1), 2**127 - 1, 2**53 + 1, 2**106 + 1]


def unsigned(bits: int) -> st.SearchStrategy[int]:
    """Numbers whose limbs are often all zeros or all ones, where carries run through."""
    limb = st.one_of(st.sampled_from([0, 1, LIMB - 1, 2**63]), st.integers(0, LIMB - 1))
    whole = st.tuples(limb, limb, limb).map(lambda p: p[0] + p[1] * LIMB + p[2] * LIMB**2)
    return st.one_of(whole, st.sampled_from(EDGES)).map(lambda value: value % 2**bits)


def limbs(value: int, count: int) -> NDArray[np.int64]:
    return np.array([value // LIMB**i % LIMB for i in range(count)], np.uint64).view(np.int64)


def number(words: NDArray[np.int64]) -> int:
    return sum(int(word) * LIMB**i for i, word in enumerate(words.view(np.uint64).tolist()))


@given(unsigned(128), unsigned(128))
@example(LIMB - 1, 1)
def test_128_bits_add_and_subtract(a: int, b: int) -> None:
    words, other = limbs(a, 2), limbs(b, 2)
    fixed.add128(words, 0, np.uint64(b % LIMB), other[1])
    assert number(words) == (a + b) % 2**128
    fixed.subtract128(words, 0, np.uint64(b % LIMB), other[1])
    assert number(words) == a


@given(unsigned(192), unsigned(192))
@example(0, 1)
@example(LIMB, LIMB + 1)
@example(2**192 - 1, 1)
def test_192_bits_add_and_subtract(a: int, b: int) -> None:
    words = limbs(a, 3)
    fixed.add192(words, 0, limbs(b, 3), 0)
    assert number(words) == (a + b) % 2**192
    words = limbs(a, 3)
    fixed.subtract192(words, 0, limbs(b, 3), 0)
    assert number(words) == (a - b) % 2**192


@given(unsigned(128))
def test_square(a: int) -> None:
    found = fixed.square128(np.uint64(a % LIMB), np.uint64(a // LIMB))
    assert sum(int(limb) * LIMB**i for i, limb in enumerate(found)) == a * a


@given(st.integers(-(2**127) + 1, 2**127 - 1))
@example(2**106 + 2**53)  # exactly between two floats
@example(2**106 + 2**53 + 1)
@example(-(2**64) - 2**11 - 1)
def test_128_bits_become_the_nearest_float(a: int) -> None:
    low, high = a % LIMB, a >> 64
    assert fixed.to_float(np.uint64(low), np.int64(high)) == float(a)


@given(unsigned(192), unsigned(64))
@example(2**300 % 2**192, 3)
def test_256_bits_become_the_nearest_float(a: int, b: int) -> None:
    whole = a + b * LIMB**3
    parts = [np.uint64(whole // LIMB**i % LIMB) for i in range(4)]
    assert fixed.to_float256(*parts) == float(whole)


@given(st.floats(-(2.0**55), 2.0**55), st.sampled_from([0, 20, 40, 60]))
@example(0.5, 0)
@example(1.5, 0)
@example(-(2.0**-41), 40)
def test_a_float_becomes_the_nearest_multiple_of_the_quantum(value: float, bits: int) -> None:
    low, high = fixed.to_fixed(value, 2.0**bits)
    assert int(low) + int(high) * LIMB == round(Fraction(value) * 2**bits)


@given(st.lists(st.integers(-(2**80) + 1, 2**80 - 1), min_size=2, max_size=20))
@example([2**80 - 1] * 20)
@example([-(2**79), -(2**79) + 1])
def test_spread_is_exact_and_rounded_once(values: list[int]) -> None:
    words = np.concatenate([limbs(sum(values), 2), limbs(sum(value * value for value in values), 3)])
    exact = len(values) * sum(value * value for value in values) - sum(values) ** 2
    assert fixed.spread(len(values), words, 0, 2) == float(exact)
