"""A snapshot of the replica."""

import logging
from pathlib import Path

import msgspec
import numpy as np

from tidemill_serving.domain.replica import Copied, Place, Replica, Row, Table
from tidemill_serving.store.files import replace

_log = logging.getLogger(__name__)
MAXIMUM_SNAPSHOT = 512 * 1024 * 1024


class _Table(msgspec.Struct):
    view: str
    version: str
    width: int
    entities: list[str]
    values: bytes
    revisions: list[int]
    at_us: list[int | None]
    revision_jsons: list[bytes]


class _Snapshot(msgspec.Struct):
    tables: list[_Table]
    marks: list[tuple[Place, dict[int, int]]]
    partitions: list[tuple[Place, int]]


class Snapshots:
    """A file in this instance's folder, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._snapshot = folder / "replica.snapshot"

    def save_snapshot(self, copied: Copied) -> None:
        """Write what `Replica.copy` gave. Blocks, and may run in a thread."""
        out, size = [], 0
        for (view, version), width, rows in copied.tables:
            values = np.stack([row.values for _, row in rows]).tobytes() if rows else b""
            size += len(values)
            entities, vectors = [entity for entity, _ in rows], [row for _, row in rows]
            out.append(_Table(
                view, version, width, entities, values, [row.revision for row in vectors],
                [row.at_us for row in vectors], [row.revision_json for row in vectors],
            ))  # fmt: skip
        if size > MAXIMUM_SNAPSHOT:
            _log.warning("the replica has %d bytes, too many for a snapshot", size)
            return
        snapshot = _Snapshot(out, list(copied.marks.items()), list(copied.partitions.items()))
        replace(self._snapshot, msgspec.msgpack.encode(snapshot))

    def load_snapshot(self) -> Replica | None:
        """The replica as it was written last; None without a readable one."""
        try:
            snapshot = msgspec.msgpack.decode(self._snapshot.read_bytes(), type=_Snapshot)
            return _replica(snapshot)
        except FileNotFoundError:
            return None
        except ValueError:
            _log.exception("the snapshot of the replica cannot be read")
            return None


def _replica(snapshot: _Snapshot) -> Replica:
    replica = Replica()
    replica.marks, replica.partitions = dict(snapshot.marks), dict(snapshot.partitions)
    for stored in snapshot.tables:
        table = replica.tables[stored.view, stored.version] = Table(stored.width)
        values = np.frombuffer(stored.values, np.float64).reshape(len(stored.entities), stored.width)
        columns = zip(stored.entities, values, stored.revisions, stored.at_us, stored.revision_jsons, strict=True)
        table.rows = {entity: Row(row, number, at_us, raw) for entity, row, number, at_us, raw in columns}
    return replica
