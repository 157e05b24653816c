"""Ids that follow from their cause, so that a replay makes the same ones."""

from uuid import UUID, uuid5

NAMESPACE = UUID("6f0a7f4e-6d6c-5b3a-9d43-7469646d696c")


def derived_id(*parts: str | int) -> UUID:
    """uuid5 (RFC 9562) of the parts in order; each part is length-prefixed so that no two lists collide by joining."""
    text = "".join(f"{len(str(part))}:{part}" for part in parts)
    return uuid5(NAMESPACE, text)


def prediction_id(pipeline: str, idempotency_key: str) -> UUID:
    """The id of the one answer that a pipeline gives for an idempotency key."""
    return derived_id("prediction", pipeline, idempotency_key)


def request_key(source: str, event_id: str, place: int | None = None) -> str:
    """The idempotency key of an instance without one in a request event: its event is told from others by both.

    `place` is that among the instances of an event with a list of them.
    """
    parts = (source, event_id) if place is None else (source, event_id, place)
    return str(derived_id("request", *parts))
