"""What a restart needs when nothing else is there: the releases of each pipeline, and a snapshot of the replica."""

import logging
from pathlib import Path

import msgspec
import numpy as np

from tidemill_contracts.events import Released
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_serving.domain.releases import Kept, KeptRelease, Swap
from tidemill_serving.domain.replica import Copied, Place, Replica, Row, Table

_log = logging.getLogger(__name__)
MAXIMUM_SNAPSHOT = 512 * 1024 * 1024


class _Release(msgspec.Struct):
    released: msgspec.Raw
    spec: msgspec.Raw


class _Pipeline(msgspec.Struct):
    spec: msgspec.Raw
    releases: list[_Release]
    swaps: list[tuple[int, int | None]]


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


class Store:
    """Files in this instance's folder, each replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._releases, self._snapshot = folder / "releases", folder / "replica.snapshot"
        self._releases.mkdir(parents=True, exist_ok=True)

    def save_releases(self, kept: Kept) -> None:
        """Remember a pipeline's releases, newest first, and the pipeline files they were made for."""
        releases = [_Release(_raw(item.released), _raw(item.spec)) for item in kept.releases]
        body = _Pipeline(_raw(kept.spec), releases, [(swap.epoch, swap.at_watermark_us) for swap in kept.swaps])
        _replace(self._releases / f"{kept.spec.name}.json", msgspec.json.encode(body))

    def load_releases(self) -> list[Kept]:
        """What is known of every pipeline; a damaged file is left out, with an error in the log."""
        found = []
        for file in sorted(self._releases.glob("*.json")):
            try:
                found.append(_kept(msgspec.json.decode(file.read_bytes(), type=_Pipeline)))
            except ValueError:  # msgspec's and pydantic's errors are ValueErrors
                _log.exception("the releases in %s cannot be read", file.name)
        return found

    def forget_releases(self, pipeline: str) -> None:
        """The pipeline is no more."""
        (self._releases / f"{pipeline}.json").unlink(missing_ok=True)

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
        _replace(self._snapshot, msgspec.msgpack.encode(snapshot))

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


def _kept(body: _Pipeline) -> Kept:
    return Kept(
        spec=PipelineSpec.model_validate_json(bytes(body.spec)),
        releases=[
            KeptRelease(Released.read(bytes(item.released)), PipelineSpec.model_validate_json(bytes(item.spec)))
            for item in body.releases
        ],
        swaps=[Swap(epoch, at_us) for epoch, at_us in body.swaps],
    )


def _raw(model: Released | PipelineSpec) -> msgspec.Raw:
    return msgspec.Raw(model.model_dump_json().encode())


def _replace(file: Path, data: bytes) -> None:
    beside = file.with_suffix(".part")
    beside.write_bytes(data)
    beside.replace(file)
