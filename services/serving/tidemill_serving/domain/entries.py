"""What goes to the log: records for Kafka that wait in the spool, and the counts that their headers carry on."""

from typing import Literal

import msgspec

Kind = Literal["prediction", "inference", "shadow", "timer", "swap", "switch", "letter"]


class Entry(msgspec.Struct, array_like=True, frozen=True):
    """A Kafka record on its way: `headers` lack only the origin, `at_us` is its time in the ordered merge."""

    kind: Kind
    pipeline: str
    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: list[tuple[str, bytes]]
    at_us: int = 0


class LogRefusedError(Exception):
    """The log cannot take a record now: its limit on disk is reached, or the disk refused the write."""


class Tally(msgspec.Struct):
    """What a pipeline's records came to: predictions ever, and the highest progress that was declared."""

    predictions: int = 0
    floor_us: int | None = None


def count(tallies: dict[str, Tally], entry: Entry) -> None:
    """Add one record to the counts of its pipeline."""
    tally = tallies.setdefault(entry.pipeline, Tally())
    if entry.kind == "prediction":
        tally.predictions += 1
    elif entry.kind == "timer" and (tally.floor_us is None or entry.at_us > tally.floor_us):
        tally.floor_us = entry.at_us


def copy_tallies(tallies: dict[str, Tally]) -> dict[str, Tally]:
    """A copy that later counting does not change."""
    return {pipeline: Tally(tally.predictions, tally.floor_us) for pipeline, tally in tallies.items()}
