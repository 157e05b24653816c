"""Events out of the archive in bands: bodies as they were sent, and since when the log has known each."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from pyarrow import compute as pc

from tidemill.datasets.errors import DatasetError
from tidemill_engine.arrays import Int64s
from tidemill_runtime.archive import archive_path, archived_positions, read_bands
from tidemill_runtime.errors import RuntimeFailure

_LIST = msgspec.json.Decoder(list[dict[str, Any]])
_COLUMNS = ("partition", "seq", "id", "event_us", "ingest_us", "body")


@dataclass(frozen=True, slots=True)
class Band:
    """Events (n,) by partition and number. `known_us` never falls along a partition: a log is read in order."""

    partitions: npt.NDArray[np.int32]
    seqs: Int64s
    ids: list[str]
    times_us: Int64s
    known_us: Int64s
    bodies: list[dict[str, Any]]


def bands(archive: str, source: str, below: Mapping[int, int], *, before_us: int | None = None) -> Iterator[Band]:
    """The events of a source with numbers below `below`, those at `before_us` and later left out.

    Raises DatasetError when the archive does not hold them all.
    """
    known: dict[int, int] = {}
    try:
        for table in read_bands(archive_path(archive, source), below, columns=_COLUMNS):
            partitions = table.column("partition").to_numpy()
            known_us = _known(partitions, table.column("ingest_us").to_numpy(), known)
            if before_us is not None:
                is_early = pc.less(table.column("event_us"), before_us)
                kept = is_early.to_numpy()
                partitions, known_us = partitions[kept], known_us[kept]
                table = table.filter(is_early)  # noqa: PLW2901 - what is left of it
            yield Band(
                partitions, table.column("seq").to_numpy(), table.column("id").to_pylist(),
                table.column("event_us").to_numpy(), known_us, _bodies(table.column("body").to_pylist()),
            )  # fmt: skip
    except RuntimeFailure as error:
        raise DatasetError(f"the events of {source}: {error}") from error


def _bodies(texts: list[str]) -> list[dict[str, Any]]:
    """One call for all of them: a call for each costs more than its reading."""
    return _LIST.decode(f"[{','.join(texts)}]")


def _known(partitions: npt.NDArray[np.int32], ingest_us: Int64s, before: dict[int, int]) -> Int64s:
    """Since when each event is known: an event is not known before those in front of it are."""
    found = np.empty(len(ingest_us), np.int64)
    for partition in np.unique(partitions).tolist():
        at = np.flatnonzero(partitions == partition)
        found[at] = np.maximum.accumulate(np.maximum(ingest_us[at], before.get(partition, 0)))
        before[partition] = int(found[at[-1]])
    return found


def positions(archive: str, source: str) -> dict[int, int]:
    """What the archive of a source holds now; raises DatasetError where it cannot be read."""
    try:
        return archived_positions(archive_path(archive, source))
    except RuntimeFailure as error:
        raise DatasetError(f"the events of {source}: {error}") from error
