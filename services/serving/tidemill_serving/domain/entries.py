"""What goes to the log: records for Kafka that wait in the spool, and the counts that their headers carry on."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from tidemill_contracts.envelope import Headers
from tidemill_contracts.headers import unpacked_headers

Kind = Literal["prediction", "bulk", "inference", "shadow", "timer", "swap", "switch", "letter"]
"""`bulk`: an answer to a request over Kafka. It is here for its id alone, and goes there with the request's offset."""
ORIGIN = "tm_origin"
"""Header: where in its input a record came from."""


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A Kafka record on its way: `head` are its headers without the origin, `at_us` is its time in the ordered merge.

    Of records that come by thousands `head` is packed (`tidemill_contracts.headers`), mostly once for many of them.
    """

    kind: Kind
    pipeline: str
    topic: str
    partition: int
    key: bytes | None
    value: bytes
    head: Headers | bytes
    at_us: int = 0

    @property
    def headers(self) -> Headers:
        """Names and values."""
        return unpacked_headers(self.head) if isinstance(self.head, bytes) else self.head

    @property
    def origin(self) -> bytes:
        """Of an answer to a request over Kafka: where that stood."""
        return dict(self.headers).get(ORIGIN, b"") if self.kind == "bulk" else b""


class LogRefusedError(Exception):
    """The log cannot take a record now: its limit on disk is reached, or the disk refused the write."""


class Tally(msgspec.Struct):
    """What a pipeline's records came to: predictions ever, and the highest progress that was declared."""

    predictions: int = 0
    floor_us: int | None = None


def count(tallies: dict[str, Tally], entries: Iterable[Entry]) -> None:
    """Add records to the counts of their pipelines."""
    for entry in entries:
        tally = tallies.get(entry.pipeline)
        if tally is None:
            tally = tallies[entry.pipeline] = Tally()
        if entry.kind == "prediction":
            tally.predictions += 1
        elif entry.kind == "timer" and (tally.floor_us is None or entry.at_us > tally.floor_us):
            tally.floor_us = entry.at_us


def copy_tallies(tallies: dict[str, Tally]) -> dict[str, Tally]:
    """A copy that later counting does not change."""
    return {pipeline: Tally(tally.predictions, tally.floor_us) for pipeline, tally in tallies.items()}
