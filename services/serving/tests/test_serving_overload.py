"""What comes together: who asks while there is no room is refused at once, and who waited least is answered."""

import asyncio
import json
import os
from contextlib import AsyncExitStack
from typing import Any

import pytest
from serving_edge import PATH, SPEC, Edge, direct
from test_serving_api import body, tensor

pytestmark = pytest.mark.anyio
INFER = f"/v2/models/{SPEC.name}/infer"
TRACE = f"00-{'1' * 32}-{'d' * 16}-01"
COUNT = 20


class Line:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def ask(self, path: str, raw: bytes) -> None:
        """Without a turn of the loop."""
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}"
        whole = f"{head}\r\ntraceparent: {TRACE}\r\n\r\n".encode() + raw
        assert os.write(self.writer.get_extra_info("socket").fileno(), whole) == len(whole)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            found = json.loads(await self.reader.readexactly(int(headers["content-length"])))
        return int(head[0].split()[1]), headers, found


async def connected(stack: AsyncExitStack, edge: Edge, path: str, raw: bytes) -> list[Line]:
    """Connections that are read together: each has asked twice."""
    http = await stack.enter_async_context(direct(edge))
    lines = [Line(*await asyncio.open_connection("127.0.0.1", http.base_url.port)) for _ in range(COUNT)]
    for line in lines:
        stack.callback(line.writer.close)
        for _ in range(2):
            line.ask(path, raw)
            assert (await line.answer())[0] == 200
    return lines


@pytest.mark.parametrize(
    ("path", "raw", "room", "media"),
    [(PATH, body(), 5, "application/problem+json"), (INFER, json.dumps(tensor()).encode(), 7, "application/json")],
)
async def test_the_last_ones_are_answered_and_logged(path: str, raw: bytes, room: int, media: str) -> None:
    edge = Edge()
    edge.release()
    async with AsyncExitStack() as stack:
        lines = await connected(stack, edge, path, raw)
        before, edge.batcher.pace.most = len(edge.log.entries), 5.0
        for line in lines:
            line.ask(path, raw)
        answers = [await line.answer() for line in lines]
        edge.batcher.pace.most = 100.0
        for line in lines:
            line.ask(path, raw)
        assert {(await line.answer())[0] for line in lines} == {200}
    assert [status for status, _, _ in answers] == [503] * (COUNT - room) + [200] * room
    assert all(headers["traceparent"].startswith(TRACE[:36]) for _, headers, _ in answers)
    assert len({headers["traceparent"] for _, headers, _ in answers}) == COUNT
    for _, headers, found in answers[:-room]:
        assert (headers["retry-after"], headers["content-type"]) == ("1", media)
        assert "more requests arrive than can be answered in time" in found.values()
    traces = [dict(entry.headers)["traceparent"].decode() for entry in edge.log.entries[before : before + room]]
    assert traces == [headers["traceparent"] for _, headers, _ in answers[-room:]]


async def test_together_they_are_answered_as_they_are_alone() -> None:
    edge = Edge()
    edge.release()
    usual = json.loads(body())
    texts = [
        body(), json.dumps(usual | {"id": "one"}).encode(), json.dumps(usual | {"id": "one"}).encode(),
        json.dumps(usual | {"more": 1}).encode(), body().replace(b'"inputs"', b'"\\u0069nputs"'), b"{}",
    ]  # fmt: skip
    width = max(map(len, texts))  # so that their heads are the same
    async with AsyncExitStack() as stack:
        lines = (await connected(stack, edge, PATH, body().ljust(width)))[: len(texts)]
        before, batches = len(edge.log.entries), edge.house.counts.batches
        for line, text in zip(lines, texts, strict=True):
            line.ask(PATH, text.ljust(width))
        answers = [await line.answer() for line in lines]
    assert [status for status, _, _ in answers] == [200, 200, 200, 422, 200, 422]
    found = [answer for status, _, answer in answers if status == 200]
    assert len({answer["score"] for answer in found}) == 1
    assert found[1] == found[2], "the same id has one answer"
    logged = [json.loads(entry.value)["prediction_id"] for entry in edge.log.entries[before:]]
    assert sorted(logged) == sorted({answer["prediction_id"] for answer in found}), "each once"
    assert edge.house.counts.batches <= batches + 2, "one for all that are usual"
