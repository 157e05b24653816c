"""The operations on dead letters, as those in `calls`."""

from typing import Any

from tidemill.client import results as r
from tidemill.client.calls import Call, Steps, part_of


def letters(topic: str | None = None, *, limit: int = 50) -> Steps[list[r.Letter]]:
    """The newest dead letters of a topic, or of the raw topics of all sources."""
    params: dict[str, Any] = {"limit": limit} | ({} if topic is None else {"topic": topic})
    answer = yield Call("ingestion", "GET", "/v1/dlq", params=params)
    return [r.Letter.model_validate(item) for item in answer["letters"]]


def letter(topic: str, partition: int, offset: int) -> Steps[r.OpenedLetter]:
    """One dead letter with its bytes."""
    answer = yield Call("ingestion", "GET", f"/v1/dlq/{part_of(topic)}/{partition}/{offset}")
    return r.OpenedLetter.model_validate(answer)


def replay(
    topic: str, *, place: tuple[int, int] | None = None, limit: int = 100, force: bool = False
) -> Steps[r.Replayed]:
    """Put dead letters back where they were: one by (partition, offset), or the newest that were not put back yet."""
    body: dict[str, Any] = {"topic": topic, "limit": limit, "force": force}
    if place is not None:
        body |= {"partition": place[0], "offset": place[1]}
    return r.Replayed.model_validate((yield Call("ingestion", "POST", "/v1/dlq/replay", body)))
