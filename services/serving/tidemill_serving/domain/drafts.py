"""What goes into a batch and what comes out of it."""

from typing import NamedTuple

from tidemill_serving.domain.answers import Remembered
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.frames import Logged
from tidemill_serving.domain.loaded import Beside
from tidemill_serving.domain.requests import Ask


class Order(NamedTuple):
    """The request over Kafka that an instance came with: partition, offset and its place in it, and the event's id."""

    origin: bytes
    cause: bytes


class Query(NamedTuple):
    """One instance on its way through a batch; without an order somebody waits for its answer."""

    ask: Ask
    identity: str
    traceparent: str
    order: Order | None = None


Result = bytes | RefusedError
"""The encoded answer, or why there is none."""


class Drafts(NamedTuple):
    """What a batch comes to: a result for each query, and the records that must be spooled before results leave.

    `reads` are the trace contexts behind each new answer, by its identity; None where nobody asked for them. `beside`
    is what shadows are to score once the results have left.
    """

    results: list[Result]
    entries: list[Logged]
    remembered: list[tuple[str, Remembered]]
    reads: dict[str, list[str]] | None = None
    beside: list[Beside] | None = None
