"""Panes: fixed numbers of rows, reduced to a mean and a variance."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self


class Pane(NamedTuple):
    """A full pane: its number, mean and variance of its rows' values, and their numbers, upper end exclusive."""

    number: int
    mean: float
    variance: float
    rows: int
    first_row: int
    next_row: int

    def to_state(self) -> list[float | int]:
        """Plain JSON values."""
        return list(self)

    @classmethod
    def from_state(cls, values: Sequence[float | int]) -> Self:
        """The pane that `to_state` described."""
        number, mean, variance, rows, first_row, next_row = values
        return cls(int(number), float(mean), float(variance), int(rows), int(first_row), int(next_row))


@dataclass(slots=True)
class OpenPane:
    """A pane being filled, by Welford's running moments; the order of rows is fixed, so the bits are."""

    count: int = 0
    mean: float = 0.0
    spread: float = 0.0
    first_row: int = 0
    next_row: int = 0

    def add(self, value: float, row: int) -> None:
        """Take one row's value."""
        if self.count == 0:
            self.first_row = row
        self.count += 1
        shift = value - self.mean
        self.mean += shift / self.count
        self.spread += shift * (value - self.mean)
        self.next_row = row + 1

    def close(self, number: int) -> Pane:
        """The full pane."""
        variance = self.spread / max(self.count - 1, 1)
        return Pane(number, self.mean, variance, self.count, self.first_row, self.next_row)

    def to_state(self) -> list[float | int]:
        """Plain JSON values."""
        return [self.count, self.mean, self.spread, self.first_row, self.next_row]

    @classmethod
    def from_state(cls, values: Sequence[float | int]) -> Self:
        """The open pane that `to_state` described."""
        count, mean, spread, first_row, next_row = values
        return cls(int(count), float(mean), float(spread), int(first_row), int(next_row))


def pooled_error(panes: Sequence[Pane]) -> float:
    """Standard error of a pane's mean as its rows alone explain it, pooled over panes."""
    return float((sum(pane.variance / pane.rows for pane in panes) / len(panes)) ** 0.5)


def mean_of(panes: Sequence[Pane]) -> float:
    """Mean of the panes' means."""
    return sum(pane.mean for pane in panes) / len(panes)
