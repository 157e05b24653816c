"""Who takes the requests of which known head."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tidemill_runtime.http.heads import Take
from tidemill_runtime.http.together import Together
from tidemill_runtime.http.wire_compiled import HEAD
from tidemill_runtime.known import Ints, Known, Table


class Taker(NamedTuple):
    """Who takes requests, and as one that takes many together if it does: asking that each time costs too much."""

    take: Take
    together: Together | None


class Takers:
    """The heads that are known to compiled code, bounded, and who takes their requests."""

    def __init__(self) -> None:
        self._known = Known[Take]()
        self._takers: list[Taker] = []
        self._numbers: dict[Take, int] = {}
        self._owners = np.zeros(64, np.int64)  # of each head the number of its taker

    @property
    def table(self) -> Table:
        """What compiled code finds heads in."""
        return self._known.table

    def learn(self, head: bytes, size: int, take: Take) -> bool:
        """Know a head from now on, with the bytes of its bodies; whether it is known."""
        before = len(self._known.found)
        if not self._known.learn(head, size, take):
            return False
        count = len(self._known.found)
        if count < before:  # all others are forgotten
            self._takers, self._numbers = [], {}
        if count != before:
            if take not in self._numbers:
                self._numbers[take] = len(self._takers)
                self._takers.append(Taker(take, take if isinstance(take, Together) else None))
            if count > len(self._owners):
                self._owners = np.resize(self._owners, 2 * count)
            self._owners[count - 1] = self._numbers[take]
        return True

    def apart(self, rows: Ints) -> Iterator[tuple[Taker, Ints]]:
        """Rows of known heads (`wire_compiled`), those of each taker in their order."""
        owners = self._owners[rows[:, HEAD]]
        takers = self._takers
        for owner in np.unique(owners).tolist():
            yield takers[owner], rows[owners == owner]
