"""The kernels as Python calls them: with room for what they give back."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np

from tidemill_engine.windows import codec, kernels
from tidemill_engine.windows.batch import Batch
from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.kernels import Floats
from tidemill_engine.windows.layout import LATEST, SEEN
from tidemill_engine.windows.memory import Memory
from tidemill_engine.windows.memory import forget_keys as _forget_keys
from tidemill_engine.windows.program import Program

_AT_ONCE = 4096  # keys


class Moment(NamedTuple):
    """What the time of an answer depends on: the state's watermark, and the number of the batch that asks."""

    watermark: int
    number: int = 0


def apply_events(program: Program, memory: Memory, batch: Batch, moment: Moment, out: Floats) -> tuple[Words, int]:
    """Apply a batch; the keys touched in order of first touch and how many events met no live pane."""
    touched = np.empty(len(batch.keys), np.int64)
    count, late = kernels.apply_events(
        program.code, memory, batch, program.event, moment.watermark, moment.number, touched, out
    )
    return touched[:count], late


def read_keys(program: Program, memory: Memory, keys: Words, watermark: int) -> tuple[Floats, Words, Words]:
    """Vectors (k, features), evaluation times and revisions (see `ViewState.vectors`) of keys."""
    values = np.empty((len(keys), program.features))
    at, revisions = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
    kernels.read_keys(program.code, memory, keys, watermark, values.ravel(), at, revisions)
    return values, at, revisions


def advance_keys(program: Program, memory: Memory, rows: int, watermark: int) -> tuple[Words, Words]:
    """Roll every key that is due; the keys that changed and the keys that died (now free rows)."""
    changed, dead = np.empty(rows, np.int64), np.empty(rows, np.int64)
    changes, deaths = kernels.advance_keys(program.code, memory, rows, watermark, changed, dead)
    return changed[:changes].copy(), dead[:deaths].copy()


def forget_keys(program: Program, memory: Memory, keys: Words) -> None:
    """Free everything that these keys hold."""
    _forget_keys(program.code, memory, keys)


def coldest_keys(program: Program, memory: Memory, rows: int, bounds: tuple[int, int]) -> Words:
    """Of the first `rows` keys those touched longest ago and not due; `bounds` are the watermark and how many."""
    watermark, count = bounds
    table = memory.rows[: rows * program.row_words].reshape(rows, program.row_words)
    found = np.flatnonzero((table[:, LATEST] >= 0) & (memory.due[:rows] > watermark))
    if count < len(found):
        found = found[np.argpartition(table[found, SEEN], count)[:count]]
    return np.sort(found)


def evaluate_keys(program: Program, memory: Memory, keys: Words, times: Words) -> Floats:
    """Vectors (k, features) at given times, the state unchanged; NaN for a key that is not known then."""
    values, scratch = np.full((len(keys), program.features), np.nan), np.empty(program.row_words, np.int64)
    kernels.evaluate_keys(program.code, memory, keys, times, scratch, values.ravel())
    return values


def blobs(program: Program, memory: Memory, keys: Words, moment: Moment, columns: dict[int, int]) -> list[bytes]:
    """The keys' blobs; `columns` are those of source partitions. Made in parts: there is a second copy of each one."""
    order = np.array([columns[partition] for partition in sorted(columns)], np.int64)
    partitions, prefix = np.array(list(columns), np.int64), codec.prefix_word(program.fingerprint)
    found = list[bytes]()
    for start in range(0, len(keys), _AT_ONCE):
        part = keys[start : start + _AT_ONCE]
        sizes = np.empty(len(part), np.int64)
        codec.blob_words(program.code, memory, part, moment.watermark, sizes)
        ends = np.cumsum(sizes)
        out = np.empty(ends[-1], np.int64)
        codec.write_blobs(program.code, memory, part, prefix, order, partitions, out)
        raw = out.astype("<i8", copy=False).tobytes()
        found += [raw[8 * low : 8 * high] for low, high in pairwise([0, *ends.tolist()])]
    return found
