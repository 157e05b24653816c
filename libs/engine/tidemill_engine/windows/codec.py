"""The stored form of one key: little-endian words, the same for the same set of events and evaluation time.

Version and plan fingerprint; number of positions, then (source partition, sequence number) by partition; latest event
time; events applied; the all-time body; then for each grid the number of live panes and (index, body) of each, oldest
first. Totals of windows are not stored: they are built again from the panes.
"""

import numpy as np

from tidemill_engine.windows.fixed import Words
from tidemill_engine.windows.jit import kernel
from tidemill_engine.windows.memory import Memory, next_change, roll, take_record, total_at
from tidemill_engine.windows.program import (
    APPLIED,
    BODY,
    CURRENT,
    DUE,
    END,
    GRIDS,
    HEAD,
    INDEX,
    LATEST,
    NEXT,
    PER_GRID,
    Program,
)
from tidemill_engine.windows.records import copy_words

VERSION = 1
PREFIX, POSITIONS = 0, 1


def prefix_word(fingerprint: int) -> int:
    """First word of every blob: the version in the first byte, the plan's fingerprint in the last four."""
    return int.from_bytes(bytes([VERSION, 0, 0, 0]) + fingerprint.to_bytes(4, "little"), "little", signed=True)


@kernel
def blob_words(program: Program, memory: Memory, keys: Words, watermark: int) -> Words:
    """Size of each key's blob in words; rolls the keys to their evaluation time first."""
    sizes = np.empty(len(keys), np.int64)
    grids = len(program.pane_us)
    for i in range(len(keys)):
        row = keys[i] * len(program.blank)
        roll(program, memory, row, max(memory.rows[row + LATEST], watermark))
        size = 4
        for column in range(memory.positions.shape[1]):
            size += 2 * (memory.positions[keys[i], column] >= 0)
        if program.blank_at[grids] >= 0:
            size += program.body_words[grids]
        for grid in range(grids):
            size += 1
            pointer = memory.rows[row + GRIDS + PER_GRID * grid + HEAD]
            while pointer >= 0:
                size += 1 + program.body_words[grid]
                pointer = memory.pool[pointer + NEXT]
        sizes[i] = size
    return sizes


@kernel
def _write_panes(program: Program, memory: Memory, row: int, grid: int, out: Words) -> int:
    """Write one grid's panes at the front of `out`; returns the number of words."""
    words = 1 + program.body_words[grid]
    head = memory.rows[row + GRIDS + PER_GRID * grid + HEAD]
    count, pointer = 0, head
    while pointer >= 0:
        count += 1
        pointer = memory.pool[pointer + NEXT]
    out[0], at, pointer = count, 1 + count * words, head
    while pointer >= 0:
        at -= words
        out[at] = memory.pool[pointer + INDEX]
        copy_words(words - 1, out, at + 1, memory.pool, pointer + BODY)
        pointer = memory.pool[pointer + NEXT]
    return int(1 + count * words)


@kernel
def write_blobs(  # noqa: PLR0913 - compiled
    program: Program, memory: Memory, keys: Words, prefix: int, order: Words, partitions: Words, ends: Words
) -> Words:
    """The keys' blobs in a row; `order` lists the position columns by partition, `ends` where each blob ends."""
    out = np.empty(ends[-1] if len(ends) else 0, np.int64)
    grids, at = len(program.pane_us), 0
    for i in range(len(keys)):
        row, start = keys[i] * len(program.blank), at
        out[start + PREFIX] = prefix
        at += 2
        for column in order:
            if memory.positions[keys[i], column] >= 0:
                out[at], out[at + 1] = partitions[column], memory.positions[keys[i], column]
                at += 2
        out[start + POSITIONS] = (at - start - 2) // 2
        out[at], out[at + 1] = memory.rows[row + LATEST], memory.rows[row + APPLIED]
        at += 2
        if program.blank_at[grids] >= 0:
            words, source = program.body_words[grids], row + program.blank_at[grids]
            copy_words(words, out, at, memory.rows, source)
            at += words
        for grid in range(grids):
            at += _write_panes(program, memory, row, grid, out[at:])
    return out


@kernel
def _read_panes(program: Program, memory: Memory, row: int, grid: int, blob: Words) -> int:
    words, slot = 1 + program.body_words[grid], row + GRIDS + PER_GRID * grid + HEAD
    for i in range(blob[0]):
        at = 1 + i * words
        pointer = take_record(program, memory, grid)
        memory.pool[pointer + INDEX], memory.pool[pointer + NEXT] = blob[at], memory.rows[slot]
        copy_words(words - 1, memory.pool, pointer + BODY, blob, at + 1)
        memory.rows[slot] = pointer
    return int(1 + blob[0] * words)


@kernel
def read_blob(program: Program, memory: Memory, key: int, blob: Words, watermark: int) -> None:
    """Fill an empty row from a blob (its prefix was checked); positions are the caller's."""
    row, grids = key * len(program.blank), len(program.pane_us)
    at = 2 + 2 * blob[POSITIONS]
    memory.rows[row + LATEST], memory.rows[row + APPLIED] = blob[at], blob[at + 1]
    at += 2
    if program.blank_at[grids] >= 0:
        words, target = program.body_words[grids], row + program.blank_at[grids]
        copy_words(words, memory.rows, target, blob, at)
        at += words
    for grid in range(grids):
        at += _read_panes(program, memory, row, grid, blob[at:])
    newest = memory.rows[row + LATEST]
    total_at(program, memory, row, newest, memory.rows[row : row + len(program.blank)])
    for grid in range(grids):
        slot, pane = row + GRIDS + PER_GRID * grid, program.pane_us[grid]
        memory.rows[slot + CURRENT], memory.rows[slot + END] = newest // pane, (newest // pane + 1) * pane
        memory.rows[slot + DUE] = memory.rows[slot + END]  # early, never late: found exactly when that pane ends
    roll(program, memory, row, max(newest, watermark))
    memory.due[key] = next_change(program, memory, row)
