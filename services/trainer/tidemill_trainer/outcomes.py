"""Training rows from the outcomes topic: logged vectors with their labels, by dense number, cached in full chunks.

The topic is the truth. A chunk on disk holds a fixed range of outcome numbers, so losing it costs only time.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import ConsumerRecord, TopicPartition

from tidemill_contracts import read_envelope, topic
from tidemill_runtime.kafka import close_client, open_consumer
from tidemill_runtime.settings import ServiceSettings
from tidemill_trainer.domain.rows import Origins, Rows, concatenate

CHUNK = 8192
_PATIENCE_S = 120.0
_LAYOUT = "with origins"


class OutcomesMissingError(Exception):
    """The outcomes topic does not hold all outcomes that a request names."""


@dataclass(slots=True)
class Columns:
    """Outcomes in lists, before they are arrays; `following` is the next dense number that is missing."""

    following: int
    offset: int
    labelled_us: list[int] = field(default_factory=list)
    vectors: list[list[float]] = field(default_factory=list)
    labels: list[float] = field(default_factory=list)
    schemas: list[str] = field(default_factory=list)
    segments: list[dict[str, str]] = field(default_factory=list)
    origins: list[tuple[str, int, int]] = field(default_factory=list)

    def add(self, outcome: dict[str, Any], offset: int) -> None:
        """Take the outcome with the next number; others are repeats."""
        if outcome.get("seq") != self.following:
            return
        self.following += 1
        self.offset = offset + 1
        if outcome.get("quarantined"):
            return
        self.labelled_us.append(outcome["labelled_us"])
        self.vectors.append([np.nan if value is None else value for value in outcome["vector"]])
        self.labels.append(outcome["label"])
        self.schemas.append(outcome["features"])
        self.segments.append(outcome["segments"])
        self.origins.append((outcome["prediction_id"], *outcome["label_position"]))

    def rows(self, schema: str, width: int, names: Sequence[str]) -> Rows:
        """The rows of one feature schema; others cannot be inputs of this model."""
        keep = [i for i, name in enumerate(self.schemas) if name == schema]
        features = np.array([self.vectors[i] for i in keep], dtype=np.float32).reshape(len(keep), width)
        segments = {name: np.array([self.segments[i].get(name, "") for i in keep], dtype=np.str_) for name in names}
        labels = np.array([self.labels[i] for i in keep], dtype=np.float64)
        times = np.array([self.labelled_us[i] for i in keep], dtype=np.int64)
        return Rows(times, features, labels, segments, self._origins(keep))

    def _origins(self, keep: Sequence[int]) -> Origins:
        kept = [self.origins[i] for i in keep]
        return Origins(
            np.array([prediction for prediction, _, _ in kept], np.str_),
            np.array([partition for _, partition, _ in kept], np.int64),
            np.array([seq for _, _, seq in kept], np.int64),
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which outcomes: a pipeline's numbers below `until`, with the schema and width of the vectors and the segments."""

    pipeline: str
    until: int
    schema: str
    width: int
    segments: tuple[str, ...]


async def load_outcomes(settings: ServiceSettings, cache: Path, wanted: Wanted) -> Rows:
    """Labelled rows of the outcomes below number `wanted.until`; raises OutcomesMissingError if the topic has fewer."""
    parts, offset = await asyncio.to_thread(_cached, cache, wanted)
    name = topic("outcomes", wanted.pipeline, prefix=settings.prefix)
    async for columns in _read(settings, name, Columns(len(parts) * CHUNK, offset), wanted.until):
        rows = columns.rows(wanted.schema, wanted.width, wanted.segments)
        parts.append(rows)
        if columns.following % CHUNK == 0:
            await asyncio.to_thread(_write_chunk, cache, wanted, columns, rows)
    return concatenate(parts) if parts else Columns(0, 0).rows(wanted.schema, wanted.width, wanted.segments)


async def _read(settings: ServiceSettings, name: str, columns: Columns, until: int) -> AsyncIterator[Columns]:
    """Columns of at most one chunk each, up to `until`."""
    consumer = await open_consumer(settings)
    place = TopicPartition(name, 0)
    try:
        consumer.assign([place])
        consumer.seek(place, columns.offset)
        async with asyncio.timeout(_PATIENCE_S):
            while columns.following < until:
                batch = await consumer.getmany(place, timeout_ms=200, max_records=2000)
                for record in batch.get(place, []):
                    if columns.following >= until:
                        break
                    columns.add(_outcome(record), record.offset)
                    if columns.following % CHUNK == 0 and columns.labels:
                        yield columns
                        columns = Columns(columns.following, columns.offset)
        if columns.labels:
            yield columns
    except TimeoutError:
        msg = f"outcomes up to {until} were asked for, {columns.following} are readable"
        raise OutcomesMissingError(msg) from None
    finally:
        await close_client(consumer)


def _outcome(record: ConsumerRecord) -> dict[str, Any]:
    """The body of an outcome; empty for what monitoring, which alone writes outcomes, has not written."""
    try:
        found = json.loads(read_envelope(record.headers, record.value).data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _cached(cache: Path, wanted: Wanted) -> tuple[list[Rows], int]:
    """Rows of the full chunks on disk, and the offset in the topic after the last of them."""
    cache.mkdir(parents=True, exist_ok=True)
    parts, offset = list[Rows](), 0
    for path in islice(_chunks(cache, wanted), wanted.until // CHUNK):
        rows, offset = read_rows(path, wanted.segments)
        parts.append(rows)
    return parts, offset


def _chunks(cache: Path, wanted: Wanted) -> Iterator[Path]:
    number = 0
    while (path := _chunk(cache, wanted, number)).exists():
        yield path
        number += 1


def _chunk(cache: Path, wanted: Wanted, number: int) -> Path:
    """A chunk's file: it holds one schema's rows with the segments of its day, so its name tells both."""
    kind = hashlib.sha256("\0".join((_LAYOUT, wanted.schema, *wanted.segments)).encode()).hexdigest()
    return cache / f"{kind[:16]}-{number:06d}.npz"


def _write_chunk(cache: Path, wanted: Wanted, columns: Columns, rows: Rows) -> None:
    write_rows(_chunk(cache, wanted, columns.following // CHUNK - 1), rows, offset=columns.offset)


def write_rows(path: Path, rows: Rows, *, offset: int) -> None:
    """Keep rows on disk, with the offset after the last of them; a crash leaves nothing half-written."""
    arrays: dict[str, Any] = {f"segment.{name}": values for name, values in rows.segments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays |= {"labelled_us": rows.labelled_us, "features": rows.features, "labels": rows.labels}
    if rows.origins is not None:
        origins = rows.origins
        arrays |= {"predictions": origins.predictions, "partitions": origins.partitions, "seqs": origins.seqs}
    with (temporary := path.with_suffix(".tmp")).open("wb") as file:
        np.savez(file, offset=offset, **arrays)
    temporary.replace(path)


def read_rows(path: Path, names: Sequence[str]) -> tuple[Rows, int]:
    """What `write_rows` kept, with these segments."""
    with np.load(path, allow_pickle=False) as chunk:
        segments = {name: chunk[f"segment.{name}"] for name in names}
        is_logged = "predictions" in chunk
        origins = Origins(chunk["predictions"], chunk["partitions"], chunk["seqs"]) if is_logged else None
        rows = Rows(chunk["labelled_us"], chunk["features"], chunk["labels"], segments, origins)
        return rows, int(chunk["offset"])
