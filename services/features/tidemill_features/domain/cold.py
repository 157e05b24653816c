"""Keys of a view partition that lie in the store alone, so that memory has a bound.

Nothing is kept here of a key that is away, only how many there are and when the first of them is due. A row of the
store is good as long as its key has no further event, so a key that comes back only because time passes leaves its row
where it is, and goes again by a change of that row's due time.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows import ViewState

NEVER = 2**63 - 1
MOST_AT_ONCE = 20_000
"""Keys that one checkpoint lets go: what is written at once stays bounded, and the next one goes on."""
_LEAST_SLACK, _MOST_SLACK = 1_000, 10_000
Page = tuple[int, bytes]
"""A due time and a key: where the reading of due rows goes on."""


class Row(NamedTuple):
    """A cold key: its state, and times of the watermark from which on its vector changes, and it is forgotten."""

    key: bytes
    due_us: int
    blob: bytes
    dies_us: int = NEVER


class Chilled(NamedTuple):
    """What a checkpoint does to rows of cold keys: new ones, other due times (key, time), gone ones."""

    put: Sequence[Row] = ()
    moved: Sequence[tuple[bytes, int]] = ()
    dropped: Sequence[bytes] = ()


class Wanted(NamedTuple):
    """Rows that are needed: of these keys, and of those due from a page on until a time (None: no due ones)."""

    keys: Sequence[bytes] = ()
    since: Page = (0, b"")
    until_us: int | None = None


class Found(NamedTuple):
    """Rows (key, blob); where the due ones go on, None when these are all; the first due time after `until_us`.

    Of a due key that is to be forgotten by `until_us` there is no blob.
    """

    rows: Sequence[tuple[bytes, bytes | None]]
    page: Page | None = None
    next_due_us: int | None = None


class Rows(NamedTuple):
    """What is stored of cold keys: how many rows, and the earliest due time."""

    number: int = 0
    due_us: int | None = None


class ColdKeys:
    """Which rows the store has, and which of them are not to be read."""

    def __init__(self, stored: Rows) -> None:
        self.evicted = self.fetched = 0
        self._rows = stored.number
        self._due_us = NEVER if stored.due_us is None else stored.due_us
        self._page: Page = (0, b"")
        self._known: set[bytes] = set()  # have a row, maybe one that is being stored, and are in memory or forgotten
        self._dropped: Sequence[bytes] = ()
        self._leaving: dict[bytes, int] = {}

    def __len__(self) -> int:
        """Keys that are away."""
        return self._rows - len(self._known)

    # in

    def wanted(self, missing: AbstractSet[bytes], until_us: int | None) -> Wanted | None:
        """Rows that must be read before keys without a place in memory have events, or time passes until a moment."""
        keys = sorted(missing - self._known)
        is_due = until_us is not None and self._due_us <= until_us
        return Wanted(keys, self._page, until_us if is_due else None) if keys or is_due else None

    def took(self, wanted: Wanted, found: Found) -> tuple[dict[bytes, bytes], list[bytes]]:
        """The blobs to be put back, by key, and keys that are forgotten: what was read, without rows out of date."""
        back, dead = dict[bytes, bytes](), list[bytes]()
        for key, blob in found.rows:
            if key in self._known:
                continue
            self._known.add(key)
            if blob is None:
                dead.append(key)
            else:
                back[key] = blob
        self.fetched += len(back)
        if found.page is not None:
            self._page = found.page
        elif wanted.until_us is not None:
            self._page = (wanted.until_us + 1, b"")
            self._due_us = NEVER if found.next_due_us is None else found.next_due_us
        return back, dead

    # out

    def chill(self, leaving: Mapping[bytes, Row], changed: AbstractSet[bytes], gone: Collection[bytes]) -> Chilled:
        """What is stored when keys leave, by name; `changed` had events, `gone` were forgotten.

        It is in force once `stored` says so.
        """
        stay = {key for key in leaving if key in self._known and key not in changed}
        dropped = self._known.intersection(gone) | (self._known & changed - leaving.keys())
        self._leaving, self._dropped = {key: row.due_us for key, row in leaving.items()}, sorted(dropped)
        new = leaving.keys() - self._known  # may be read by others before `stored`, and must not be read here
        self._rows += len(new)
        self._known |= new
        return Chilled(
            [row for key, row in leaving.items() if key not in stay],
            [(key, self._leaving[key]) for key in sorted(stay)],
            self._dropped,
        )

    def stored(self) -> dict[bytes, int]:
        """The last changes are in the store; returns the keys that may leave if nothing is due earlier than said."""
        leaving, self._leaving = self._leaving, {}
        self._rows -= len(self._dropped)
        self._known.difference_update(self._dropped)
        self._dropped = ()
        self._due_us = min([self._due_us, *leaving.values()])
        return leaving

    def left(self, keys: Iterable[bytes]) -> None:
        """These are in the store alone from now on."""
        before = len(self)
        self._known.difference_update(keys)
        self.evicted += len(self) - before


def share_of(sizes: Sequence[int], limit: int) -> int:
    """How many keys each of several may hold so that all together hold `limit`: small ones keep theirs."""
    left = limit
    for place, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - place)
        if size > share:
            return share
        left -= size
    return limit


def slack_of(room: int) -> int:
    """How many keys more than there is room for call for a checkpoint at once; twice as many hold the reading up."""
    return min(max(room // 4, _LEAST_SLACK), _MOST_SLACK)


def coldest(state: ViewState, count: int) -> dict[bytes, Row]:
    """The keys that events touched longest ago, by name."""
    if count <= 0:
        return {}
    rows = state.coldest(min(count, MOST_AT_ONCE))
    times = zip(state.due(rows).tolist(), state.dies(rows).tolist(), strict=True)
    of = dict(zip(state.names(rows), times, strict=True))
    return {key: Row(key, of[key][0], blob, of[key][1]) for key, blob in state.blobs(rows)}


def unneeded(state: ViewState, leaving: Mapping[bytes, int]) -> NDArray[np.int32]:
    """Places of those keys that had no event since they were captured and whose due time is still the captured one."""
    rows = state.lookup(list(leaving))
    alive = rows >= 0
    rows, due = rows[alive], np.array(list(leaving.values()), np.int64)[alive]
    return np.asarray(rows[(state.due(rows) == due) & ~state.is_dirty(rows)], np.int32)
