"""Requests that came over Kafka: what a record asks for, and what is to be said of one that cannot be answered."""

from collections.abc import Generator, Sequence
from typing import NamedTuple

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import PredictionRequested
from tidemill_contracts.ids import prediction_id, request_key
from tidemill_serving.domain.body import Fault, RefusedError, read_json
from tidemill_serving.domain.desk import Desk, Query
from tidemill_serving.domain.drafts import Order, Result
from tidemill_serving.domain.extras import check_inline
from tidemill_serving.domain.requests import PART

MOST_TOLD = 5
LONGEST_CAUSE = 256
"""Characters of a sender's event id in the records that it causes."""
NO_ANSWER = "no answer"
"""Title of a refusal that says more of the inputs than of the moment: to ask again would not help."""


class Why(NamedTuple):
    """Of a dead letter: a short word for counting, and a sentence that names fields and rules, never values."""

    reason: str
    error: str


def read_order(
    desk: Desk, envelope: Envelope, traceparent: str, place: tuple[int, int]
) -> Generator[None, None, list[Query]]:  # fmt: skip
    """The instances of a record, each with an id; raises RefusedError for one that breaks the pipeline's declaration.

    `place` is its partition and offset.

    An instance without an id of its own has the event's, so that a record which comes again is known. Many are read
    some at a time: whoever reads lets others go on between.
    """
    if envelope.type != PredictionRequested.TYPE:
        fault = Fault("ce_type", "unknown", f"must be {PredictionRequested.TYPE}")
        raise RefusedError(422, "not a request", "", (fault,))
    asks, is_list = yield from desk.reader.in_parts(read_json(envelope.data))
    if desk.champion.active is not None:
        check_inline(asks, desk.champion.active.plan.features)
    queries, cause = [], envelope.id[:LONGEST_CAUSE].encode()
    for ordinal, found in enumerate(asks):
        ask = found
        if ask.id is None:
            ask = ask._replace(id=request_key(envelope.source, envelope.id, ordinal if is_list else None))
        if ordinal % PART == PART - 1:
            yield
        order = Order(b"%d:%d:%d" % (*place, ordinal), cause)
        queries.append(Query(ask, str(prediction_id(desk.name, str(ask.id))), traceparent, order))
    return queries


def is_final(refused: RefusedError) -> bool:
    """Whether asking again would come to the same: else the record waits where it is."""
    return refused.status not in {409, 503} or refused.title == NO_ANSWER


def first_refusal(results: Sequence[Result]) -> tuple[int, RefusedError] | None:
    """The first that was refused, those that may be answered later before all others."""
    found = [(place, result) for place, result in enumerate(results) if isinstance(result, RefusedError)]
    return min(found, key=lambda each: is_final(each[1]), default=None)


def why_of(refused: RefusedError, place: int | None = None) -> Why:
    """What a dead letter says; `place`: which of several instances it was."""
    told = "; ".join(": ".join(filter(None, fault)) for fault in refused.faults[:MOST_TOLD])
    text = told or refused.detail or refused.title
    reason = {400: "malformed", 422: "request"}.get(refused.status, "no_answer")
    return Why(reason, text if place is None else f"instances.{place}: {text}")
