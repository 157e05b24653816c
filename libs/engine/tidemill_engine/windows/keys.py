"""Which row of the memory belongs to which key."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class KeyTable:
    """Keys to rows and back; rows of dead keys are used again."""

    def __init__(self) -> None:
        self._rows: dict[bytes, int] = {}
        self._names: list[bytes | None] = []
        self._vacant: list[int] = []
        self._expired: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def size(self) -> int:
        """Rows in use or vacant."""
        return len(self._names)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int32]:
        """Rows of keys, -1 for unknown ones."""
        return np.array([self._rows.get(key, -1) for key in keys], np.int32)

    def find_or_add(self, keys: Sequence[bytes]) -> NDArray[np.int32]:
        """Rows of keys; unknown ones get one."""
        found = [self._rows.get(key, -1) for key in keys]
        if -1 in found:
            found = [self._add(key) if row < 0 else row for key, row in zip(keys, found, strict=True)]
        return np.array(found, np.int32)

    def _add(self, key: bytes) -> int:
        known = self._rows.get(key)  # the same new key may stand twice in one batch
        if known is not None:
            return known
        if self._vacant:
            row = self._vacant.pop()
            self._names[row] = key
        else:
            row = len(self._names)
            self._names.append(key)
        self._rows[key] = row
        return row

    def names(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> list[bytes]:
        """Keys of rows; raises KeyError for a vacant row."""
        found = [self._names[row] for row in rows]
        if None in found:
            raise KeyError("the key of this index has died")
        return [name for name in found if name is not None]

    def bury(self, rows: Sequence[int]) -> None:
        """Make rows vacant and remember their keys as expired."""
        self._expired.update(self.names(rows))
        self.release(rows)

    def release(self, rows: Sequence[int]) -> None:
        """Make rows vacant; their keys live on elsewhere."""
        for row, name in zip(rows, self.names(rows), strict=True):
            self._names[row] = None
            del self._rows[name]
            self._vacant.append(row)

    def missing(self, keys: Iterable[bytes]) -> set[bytes]:
        """Those without a row."""
        return {key for key in keys if key not in self._rows}

    def rows(self) -> NDArray[np.int64]:
        """Rows in use, ascending."""
        return np.array(sorted(self._rows.values()), np.int64)

    def expired(self) -> list[bytes]:
        """Keys buried since the last call and not added again, sorted."""
        gone = sorted(self._expired - self._rows.keys())
        self._expired.clear()
        return gone
