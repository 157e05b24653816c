"""Dead letters over HTTP: list, show, put back."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol, cast

from starlette.requests import Request

from tidemill_contracts import dead_letters, topic
from tidemill_ingestion.api.events import Edge, Sink, or_503
from tidemill_ingestion.api.models import (
    LetterQuery,
    LettersFound,
    LetterShown,
    LetterSummary,
    Replay,
    Replayed,
    ReplayedLetter,
)
from tidemill_ingestion.domain.letters import Letter
from tidemill_ingestion.domain.outgoing import Outgoing
from tidemill_runtime.http import HttpProblem, read_model, read_query

MAXIMUM_DIGITS = 18
"""Of a partition or offset in a path: what fits 64 bits."""


class Reader(Protocol):
    """Dead-letter topics; every method may raise Later."""

    async def newest(self, topic: str, limit: int) -> list[Letter] | None: ...
    async def one(self, topic: str, partition: int, offset: int) -> Letter | None: ...


class Replays(Protocol):
    """Which letters were put back; every method may raise Later."""

    async def replayed(self, topic: str, places: Sequence[tuple[int, int]]) -> set[tuple[int, int]]: ...
    async def note_replays(self, topic: str, places: Sequence[tuple[int, int]]) -> None: ...


@dataclass(frozen=True, slots=True)
class Desk:
    """What the endpoints work with."""

    prefix: str
    reader: Reader
    replays: Replays
    sink: Sink


async def list_letters(request: Request) -> LettersFound:
    """The newest letters of one topic, or of the raw topics of all sources."""
    query = read_query(request, LetterQuery)
    desk = _desk(request)
    if query.topic is not None:
        return LettersFound(letters=[_summary(each) for each in await _newest(desk, query.topic, query.limit)])
    edge = cast("Edge", request.app.state.edge)
    found: list[Letter] = []
    for source in sorted(edge.sources):
        found += await _newest(desk, topic("raw", source, prefix=desk.prefix), query.limit)
    return LettersFound(letters=[_summary(each) for each in found])


async def show_letter(request: Request) -> LetterShown:
    """One letter with its bytes."""
    params = request.path_params
    letter = await _one(_desk(request), params["topic"], _number(params["partition"]), _number(params["offset"]))
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in letter.headers}
    return LetterShown(
        **_summary(letter).model_dump(),
        headers=headers,
        key_base64=_base64(letter.key),
        value_base64=_base64(letter.value),
    )


async def replay_letters(request: Request) -> Replayed:
    """Put letters back where they were.

    What was put back before is left out, or refused (409) when it was asked for by its place.
    """
    desk, asked = _desk(request), await read_model(request, Replay)
    if (asked.partition is None) != (asked.offset is None):
        raise HttpProblem(422, "partition and offset stand together")
    if asked.partition is not None and asked.offset is not None:
        letters = [await _one(desk, asked.topic, asked.partition, asked.offset)]
    else:
        letters = await _newest(desk, asked.topic, asked.limit)
    places = [(letter.partition, letter.offset) for letter in letters]
    name = _topic(desk, asked.topic)
    before = set() if asked.force or not places else await or_503(desk.replays.replayed(name, places))
    if asked.offset is not None and before:
        raise HttpProblem(409, "this letter was put back before; force it to be put back again")
    chosen = [
        (letter, record)
        for letter in letters
        if (letter.partition, letter.offset) not in before and (record := letter.replay()) is not None
    ]
    return await _put_back(desk, name, chosen, len(letters) - len(chosen))


async def _put_back(desk: Desk, name: str, chosen: Sequence[tuple[Letter, Outgoing]], skipped: int) -> Replayed:
    # Written first, noted afterwards: a crash in between writes them once more, and the operator knows their ids.
    places = await or_503(desk.sink.write([record for _, record in chosen]))
    if chosen:
        await or_503(desk.replays.note_replays(name, [(letter.partition, letter.offset) for letter, _ in chosen]))
    back = [
        ReplayedLetter(
            partition=letter.partition, offset=letter.offset, to_topic=record.topic, to_partition=p, to_offset=o
        )
        for (letter, record), (p, o) in zip(chosen, places, strict=True)
    ]
    return Replayed(replayed=back, skipped=skipped)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAXIMUM_DIGITS):
        raise HttpProblem(404, "there is no such dead letter")
    return int(text)


def _desk(request: Request) -> Desk:
    return cast("Desk", request.app.state.desk)


def _topic(desk: Desk, name: str) -> str:
    found = name if name == dead_letters(name.removesuffix(dead_letters(""))) else dead_letters(name)
    if not found.startswith(f"{desk.prefix}."):
        raise HttpProblem(404, "there is no such dead-letter topic")
    return found


async def _newest(desk: Desk, name: str, limit: int) -> list[Letter]:
    found = await or_503(desk.reader.newest(_topic(desk, name), limit))
    if found is None:
        raise HttpProblem(404, "there is no such dead-letter topic")
    return found[-limit:]


async def _one(desk: Desk, name: str, partition: int, offset: int) -> Letter:
    found = await or_503(desk.reader.one(_topic(desk, name), partition, offset))
    if found is None:
        raise HttpProblem(404, "there is no such dead letter")
    return found


def _summary(letter: Letter) -> LetterSummary:
    at_ms = letter.number("timestamp_ms")
    return LetterSummary(
        topic=letter.topic, partition=letter.partition, offset=letter.offset,
        origin_topic=letter.fact("topic"), origin_partition=letter.number("partition"),
        origin_offset=letter.number("offset"), group=letter.fact("group"), reason=letter.fact("reason"),
        error=letter.fact("error"), attempts=letter.number("attempts"), replays=letter.replays(),
        at=None if at_ms is None else _instant(at_ms), bytes=len(letter.value or b""),
    )  # fmt: skip


def _instant(at_ms: int) -> str | None:
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return None  # a producer may write any timestamp


def _base64(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()
