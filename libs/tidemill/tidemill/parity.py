"""Parity of a running pipeline: predictions from their topic, events from the archive; the engine does the rest."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from pydantic import ValidationError

from tidemill.client.calls import Call, Steps
from tidemill.client.errors import TidemillError
from tidemill.ledger.topics import read_topic
from tidemill_contracts import topic
from tidemill_contracts.events import PipelineApplied, Prediction, Released
from tidemill_contracts.pipeline import PipelineSpec, files_of
from tidemill_engine.parity import COLUMNS, Answer, Archived, Layout, Logged, Parity, check, collect
from tidemill_runtime.archive import archive_path, read_bands
from tidemill_runtime.errors import RuntimeFailure

if TYPE_CHECKING:
    from tidemill.client.clients import AsyncClient


class _Logged(msgspec.Struct):
    """What is read of `Prediction`; states and request stay as they are written."""

    prediction_id: str
    at_us: int
    epoch: int
    vector: list[float | None]
    features: str
    revisions: dict[str, msgspec.Raw]
    request: msgspec.Raw
    watermark_us: int | None = None
    inline: dict[str, float | None] = {}


_DECODER = msgspec.json.Decoder(_Logged)


async def read_parity(
    client: "AsyncClient", pipeline: str, *, since_us: int | None = None, prefix: str = "tidemill"
) -> Parity:
    """Every logged vector of a pipeline compared; with `since_us` only those of the newest so many microseconds.

    Time is the predictions' event time. Answers of releases whose pipeline file is no longer known are counted as
    unknown, those whose request put features in are left out.

    Raises:
        TidemillError: the archive does not hold the events, or something cannot be reached.
    """
    places = client.transport.endpoints
    specs = await _specs(client, pipeline, prefix)
    layouts = dict(_layouts(await client.releases(pipeline), specs))
    found = await _answers(places.bootstrap(), topic("predictions", pipeline, prefix=prefix))
    newest = max((answer.at_us for _, _, answer in found), default=0)
    logged = Logged(layouts)
    for epoch, digest, answer in found:
        if since_us is None or answer.at_us >= newest - since_us:
            logged.add(epoch, digest, answer)
    del found
    await client.run(_flush())
    return await asyncio.to_thread(check, logged, _reader(places.store(), logged))


def _flush() -> Steps[None]:
    yield Call("ingestion", "POST", "/v1/archive/flush", {})


async def _specs(client: "AsyncClient", pipeline: str, prefix: str) -> dict[str, PipelineSpec]:
    """The pipeline's file that stands and those before it that the log still holds, by the digests they were given.

    A later version of the contracts may give the same file another one.
    """
    standing = await client.pipeline(pipeline)
    found = {standing.digest: PipelineSpec.of(standing.spec)}
    name = topic("pipelines", prefix=prefix)
    async with aclosing(read_topic(client.transport.endpoints.bootstrap(), name)) as records:
        async for record in records:
            if record.envelope is not None and record.envelope.type == PipelineApplied.TYPE:
                with suppress(ValidationError):  # garbage; of a file of another time the answers count as unknown
                    applied = PipelineApplied.read(record.envelope.data)
                    found |= files_of(applied).by_digest if applied.pipeline == pipeline else {}
    return found


def _layouts(releases: Iterable[Released], specs: Mapping[str, PipelineSpec]) -> Iterable[tuple[int, Layout]]:
    for release in releases:
        spec = specs.get(release.spec)
        if spec is not None:
            yield release.epoch, Layout(spec, release.features)


async def _answers(bootstrap: str, name: str) -> list[tuple[int, str, Answer]]:
    """Epoch, digest of the feature names and answer of each prediction in the log, once each."""
    out, seen = list[tuple[int, str, Answer]](), set[str]()
    async with aclosing(read_topic(bootstrap, name)) as records:
        async for record in records:
            if record.envelope is None or record.envelope.type != Prediction.TYPE:
                continue
            try:
                body = _DECODER.decode(record.envelope.data)
            except msgspec.MsgspecError:
                continue  # its other readers bury it
            if body.prediction_id in seen or body.inline:  # what a request put in is nobody's to compute again
                continue
            seen.add(body.prediction_id)
            vector = np.array(body.vector, np.float64)  # an array is a fifth of a list
            answer = Answer(
                body.prediction_id, (record.partition, record.offset), body.at_us, body.watermark_us, vector,
                bytes(body.request), {view: bytes(raw) for view, raw in body.revisions.items()},
            )  # fmt: skip
            out.append((body.epoch, body.features, answer))
    return out


def _reader(artifacts: str, logged: Logged) -> Callable[[str, dict[int, int]], Archived]:
    def read(source: str, below: dict[int, int]) -> Archived:
        try:
            return collect(read_bands(archive_path(artifacts, source), below, columns=COLUMNS), logged, source)
        except RuntimeFailure as error:
            raise TidemillError(f"the events of {source} cannot be read: {error}") from error

    return read
