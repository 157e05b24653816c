"""A vector's numbers as text: each reads back as the same number, and none could be shorter."""

from decimal import Decimal

import numpy as np
import pytest

from tidemill_engine.windows.text import numbers_text

_EDGES = np.array([0.0, -0.0, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e15, 1e16, 1e17, 1e-5, 1e-6])
_CHANCE = np.random.default_rng(7)


def texts(values: np.ndarray) -> list[str]:
    buffer, ends = numbers_text(values.reshape(-1, 1))
    starts = [0, *ends[:-1].tolist()]
    return [buffer[low:high].tobytes().decode() for low, high in zip(starts, ends.tolist(), strict=True)]


@pytest.mark.parametrize(
    "values",
    [
        _CHANCE.integers(0, 2**64, 20_000, np.uint64).view(np.float64),
        _CHANCE.random(5000) * 10.0 ** _CHANCE.integers(-12, 25, 5000),
        _CHANCE.integers(-(10**6), 10**6, 5000) / 1000,
        _CHANCE.integers(10**14, 10**17, 5000) / 100,
        _CHANCE.integers(-(2**62), 2**62, 2000).astype(np.float64),
        np.arange(2000.0),
        np.concatenate([2.0 ** np.arange(-1074, 1024), 10.0 ** np.arange(-323, 309), _EDGES]),
        np.nextafter(np.concatenate([2.0 ** np.arange(-1074, 1024), 10.0 ** np.arange(-323, 309)]), 0.0),
    ],
    ids=["bits", "sizes", "thousandths", "many digits", "large", "small", "edges", "below edges"],
)
def test_numbers_are_the_shortest_that_read_back(values: np.ndarray) -> None:
    finite = values[np.isfinite(values)]
    found = texts(finite)
    assert np.array([float(text) for text in found]).tobytes() == finite.tobytes()
    for text, value in zip(found, finite.tolist(), strict=True):
        assert Decimal(text) == Decimal(repr(value)), "Python's own text is the shortest"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.0"), (-0.0, "-0.0"), (1.0, "1.0"), (-12.5, "-12.5"), (0.1, "0.1"), (1e16, "1e16"), (1e-5, "0.00001"),
        (1e15, "1000000000000000.0"), (1.5e-7, "1.5e-7"), (1.25e22, "1.25e22"), (np.nan, "null"), (-np.inf, "null"),
    ],
)  # fmt: skip
def test_the_form_is_json(value: float, text: str) -> None:
    assert texts(np.array([value])) == [text]


def test_rows_are_cut_where_they_end() -> None:
    buffer, ends = numbers_text(np.array([[1.0, 2.5], [np.nan, -3.0]]))
    assert buffer[: ends[0]].tobytes() == b"1.0,2.5"
    assert buffer[ends[0] : ends[1]].tobytes() == b"null,-3.0"
    assert numbers_text(np.empty((2, 0)))[1].tolist() == [0, 0]
