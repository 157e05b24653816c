"""The stored form of one key: little-endian words, the same for the same set of events and evaluation time.

Version and plan fingerprint; number of positions, then (source partition, sequence number) by partition; latest event
time; events applied; the all-time body; then for each grid, session windows last, the number of live panes and (index,
body) of each, oldest first. Totals of windows are not stored: they are built again from the panes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import inlined, kernel
from tidemill_engine.windows.layout import (
    APPLIED,
    BODY,
    BODY_WORDS,
    CURRENT,
    DUE,
    END,
    GRID,
    GRID_END,
    GRID_WIDTH,
    HEAD,
    INDEX,
    LATEST,
    NEXT,
    PANE,
    ROW_WORDS,
    SESSION,
    SESSION_END,
    SLOT,
)
from tidemill_engine.windows.lists import take_record
from tidemill_engine.windows.memory import Memory, next_change, roll, total_at
from tidemill_engine.windows.records import copy_words

VERSION = 1
PREFIX, POSITIONS = 0, 1


def prefix_word(fingerprint: int) -> int:
    """First word of every blob: the version in the first byte, the plan's fingerprint in the last four."""
    return int.from_bytes(bytes([VERSION, 0, 0, 0]) + fingerprint.to_bytes(4, "little"), "little", signed=True)


@inlined
def _panes_words(code: Words, memory: Memory, row: int, grid: int) -> int:
    size, pointer = 1, memory.rows[row + code[grid + SLOT] + HEAD]
    while pointer >= 0:
        size += 1 + code[grid + BODY_WORDS]
        pointer = memory.pool[pointer + NEXT]
    return int(size)


@kernel
def blob_words(code: Words, memory: Memory, keys: Words, watermark: int, sizes: Words) -> None:
    """Fill in the size of each key's blob in words; rolls the keys to their evaluation time first."""
    all_time = code[GRID_END]
    for i in range(len(keys)):
        row = keys[i] * code[ROW_WORDS]
        roll(code, memory.rows, memory.pool, row, max(memory.rows[row + LATEST], watermark))
        size = 4
        for column in range(memory.positions.shape[1]):
            size += 2 * (memory.positions[keys[i], column] >= 0)
        if code[all_time + SLOT] >= 0:
            size += code[all_time + BODY_WORDS]
        for grid in range(code[GRID], all_time, GRID_WIDTH):
            size += _panes_words(code, memory, row, grid)
        for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
            size += _panes_words(code, memory, row, grid)
        sizes[i] = size


@kernel
def _write_panes(memory: Memory, head: int, body_words: int, out: Words, start: int) -> int:
    """Write one grid's panes, oldest first; returns where they end."""
    words, count, pointer = 1 + body_words, 0, head
    while pointer >= 0:
        count += 1
        pointer = memory.pool[pointer + NEXT]
    end = start + 1 + count * words
    out[start], at, pointer = count, end, head
    while pointer >= 0:
        at -= words
        out[at] = memory.pool[pointer + INDEX]
        copy_words(body_words, out, at + 1, memory.pool, pointer + BODY)
        pointer = memory.pool[pointer + NEXT]
    return int(end)


@kernel
def write_blobs(  # noqa: PLR0913 - compiled
    code: Words, memory: Memory, keys: Words, prefix: int, order: Words, partitions: Words, out: Words
) -> None:
    """Write the keys' blobs one behind the other; `order` lists the position columns by partition."""
    all_time, at = code[GRID_END], 0
    for i in range(len(keys)):
        row, start = keys[i] * code[ROW_WORDS], at
        out[start + PREFIX] = prefix
        at += 2
        for column in order:
            if memory.positions[keys[i], column] >= 0:
                out[at], out[at + 1] = partitions[column], memory.positions[keys[i], column]
                at += 2
        out[start + POSITIONS] = (at - start - 2) // 2
        out[at], out[at + 1] = memory.rows[row + LATEST], memory.rows[row + APPLIED]
        at += 2
        if code[all_time + SLOT] >= 0:
            copy_words(code[all_time + BODY_WORDS], out, at, memory.rows, row + code[all_time + SLOT])
            at += code[all_time + BODY_WORDS]
        for grid in range(code[GRID], all_time, GRID_WIDTH):
            head = memory.rows[row + code[grid + SLOT] + HEAD]
            at = _write_panes(memory, head, code[grid + BODY_WORDS], out, at)
        for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
            head = memory.rows[row + code[grid + SLOT] + HEAD]
            at = _write_panes(memory, head, code[grid + BODY_WORDS], out, at)


@kernel
def _read_panes(code: Words, memory: Memory, row: int, grid: int, blob: Words, start: int) -> int:  # noqa: PLR0913 - compiled
    """Take one grid's panes from a blob; returns where they end."""
    words, slot = 1 + code[grid + BODY_WORDS], row + code[grid + SLOT]
    for i in range(blob[start]):
        at = start + 1 + i * words
        pointer = take_record(code, memory.pool, grid)
        memory.pool[pointer + INDEX], memory.pool[pointer + NEXT] = blob[at], memory.rows[slot + HEAD]
        copy_words(words - 1, memory.pool, pointer + BODY, blob, at + 1)
        memory.rows[slot + HEAD] = pointer
    return int(start + 1 + blob[start] * words)


@inlined
def _read_blob(code: Words, memory: Memory, key: int, blob: Words, start: int, watermark: int) -> None:  # noqa: PLR0913 - compiled
    """Fill an empty row from a blob (its prefix was checked); positions are the caller's."""
    rows, row, all_time = memory.rows, key * code[ROW_WORDS], code[GRID_END]
    at = start + 2 + 2 * blob[start + POSITIONS]
    rows[row + LATEST], rows[row + APPLIED] = blob[at], blob[at + 1]
    at += 2
    if code[all_time + SLOT] >= 0:
        copy_words(code[all_time + BODY_WORDS], rows, row + code[all_time + SLOT], blob, at)
        at += code[all_time + BODY_WORDS]
    for grid in range(code[GRID], all_time, GRID_WIDTH):
        at = _read_panes(code, memory, row, grid, blob, at)
    for grid in range(code[SESSION], code[SESSION_END], GRID_WIDTH):
        at = _read_panes(code, memory, row, grid, blob, at)
        rows[row + code[grid + SLOT] + DUE] = rows[row + LATEST]  # early, never late: found at once
    newest = rows[row + LATEST]
    total_at(code, rows, memory.pool, row, newest, rows, row)
    for grid in range(code[GRID], all_time, GRID_WIDTH):
        slot, pane = row + code[grid + SLOT], code[grid + PANE]
        rows[slot + CURRENT], rows[slot + END] = newest // pane, (newest // pane + 1) * pane
        rows[slot + DUE] = rows[slot + END]  # early, never late: found exactly when that pane ends
    roll(code, rows, memory.pool, row, max(newest, watermark))
    memory.due[key] = next_change(code, rows, row)


@kernel
def read_blobs(code: Words, memory: Memory, keys: Words, words: Words, ends: Words, watermark: int) -> None:  # noqa: PLR0913 - compiled
    """Fill empty rows from blobs one behind the other."""
    start = int(np.int64(0))  # a plain 0 would be compiled as a constant, once more
    for i in range(len(keys)):
        _read_blob(code, memory, keys[i], words, start, watermark)
        start = ends[i]


def join_blobs(blobs: Sequence[bytes], prefix: int) -> tuple[Words, Words]:
    """Words of blobs one behind the other, and where each ends; raises ValueError for another version or plan."""
    sizes = np.array([len(blob) for blob in blobs], np.int64)
    ends = np.cumsum(sizes // 8)
    if (sizes % 8).any() or (sizes < 4 * 8).any():
        raise ValueError("stored state of another version or plan")
    words = np.frombuffer(b"".join(blobs), "<i8").astype(np.int64)
    if (words[ends - sizes // 8 + PREFIX] != prefix).any():
        raise ValueError("stored state of another version or plan")
    return words, ends


def positions_in(words: Words, ends: Words) -> Iterator[tuple[Words, NDArray[np.int32], Words]]:
    """The first positions of all joined blobs, then the second, and so on: which blobs, partitions, numbers."""
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])[: len(ends)]
    counts = words[starts + POSITIONS]
    for number in range(int(counts.max(initial=0))):
        which = np.flatnonzero(counts > number)
        at = starts[which] + 2 + 2 * number
        yield which, words[at].astype(np.int32), words[at + 1]
