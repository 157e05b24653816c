"""Care of an archive: that every number resolves to one event, and few large files instead of many small ones."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tidemill_runtime.archive import BAND_ROWS, Bands, archived_positions, open_archive
from tidemill_runtime.errors import Later

if TYPE_CHECKING:
    import pyarrow as pa

KEEP_HOURS = 24
"""Replaced files stay so long, for readers that opened the archive before."""
_MOST_TOLD = 20
_COLUMNS = ("offset", "raw_offset", "id", "event_us", "key", "body")


@dataclass(slots=True)
class PartitionCheck:
    """What one partition of a source holds. Numbers from 0 up to `below` are expected, each once, at rising offsets.

    `digest` is a SHA-256 over id, event time, key and body of every event by number; `until` of an earlier check
    gives `prefix`, the digest of the numbers below it. At most 20 faults of a kind are listed, as ranges.
    """

    below: int
    rows: int = 0
    missing: int = 0
    doubled: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    falling: list[int] = field(default_factory=list)
    digest: str = ""
    prefix: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is missing, nothing stands twice and offsets rise."""
        return not (self.missing or self.doubled or self.falling)


@dataclass(frozen=True, slots=True)
class ArchiveCheck:
    """The check of one source; `changed` names partitions whose earlier digest no longer fits."""

    source: str
    partitions: Mapping[int, PartitionCheck]
    changed: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every partition is whole and as it was."""
        return not self.changed and all(each.ok for each in self.partitions.values())

    def to_json(self) -> dict[str, Any]:
        """Plain values; `check_archive(earlier=...)` reads them."""
        found = {
            str(p): {
                "below": c.below, "rows": c.rows, "missing": c.missing, "doubled": c.doubled,
                "gaps": [list(gap) for gap in c.gaps], "duplicates": c.duplicates, "falling_offsets": c.falling,
                "digest": c.digest,
            }
            for p, c in self.partitions.items()
        }  # fmt: skip
        return {"source": self.source, "ok": self.ok, "changed": list(self.changed), "partitions": found}


def check_archive(
    path: str, source: str, *, below: Mapping[int, int] | None = None, earlier: Mapping[str, Any] | None = None
) -> ArchiveCheck:
    """Read the whole archive of a source, in bands, and compare it with where it must end.

    `below` says how many numbers each partition of the topic has given out; without it, what the archive's own last
    commit says. `earlier` is `to_json` of a check before: what it saw must still have its digest. Blocks.
    """
    ends = dict(_committed(path) if below is None else below)
    before = {int(p): found for p, found in (earlier or {}).get("partitions", {}).items()}
    checks = {p: _Run(PartitionCheck(end), before.get(p, {}).get("below")) for p, end in sorted(ends.items())}
    for band in _bands(path, ends):
        for batch in band.to_batches():
            columns = batch.to_pydict()
            for row in zip(columns["partition"], columns["seq"], *(columns[n] for n in _COLUMNS), strict=True):
                checks[row[0]].take(row[1:])
    done = {partition: run.finish() for partition, run in checks.items()}
    changed = tuple(p for p, found in before.items() if p not in done or done[p].prefix != found["digest"])
    return ArchiveCheck(source, done, changed)


def _bands(path: str, ends: Mapping[int, int]) -> Iterator["pa.Table"]:
    bands = Bands(path, _COLUMNS)
    step = max(1, BAND_ROWS // max(1, len(ends)))
    for low in range(0, max(ends.values(), default=0), step):
        yield bands.read_between({p: (low, min(end, low + step)) for p, end in ends.items() if end > low})


def _committed(path: str) -> dict[int, int]:
    """Positions that moved with the rows, and partitions that have rows but (in a copy) no positions."""
    table, ends = open_archive(path), archived_positions(path)
    for partition in range(max(ends, default=-1) + 1):
        last = table.transaction_version(f"events/{partition}/seq")
        if last is not None:
            ends[partition] = last + 1
    return ends


class _Run:
    """Takes the rows of one partition in order of number."""

    def __init__(self, check: PartitionCheck, until: int | None) -> None:
        self._check, self._until = check, until
        self._next, self._offset, self._raw = 0, -1, -1
        self._digest = hashlib.sha256()
        self._mark()

    def take(self, row: tuple[int, int, int, str, int, str, str]) -> None:
        """One row: number, offset, raw offset, id, event time, key, body."""
        seq, offset, raw_offset, *content = row
        check = self._check
        check.rows += 1
        if seq < self._next:
            check.doubled += 1
            _tell(check.duplicates, seq)
            return
        self._skip_to(seq)
        if offset <= self._offset or raw_offset <= self._raw:
            _tell(check.falling, seq)
        self._offset, self._raw, self._next = offset, raw_offset, seq + 1
        self._digest.update("\0".join(map(str, content)).encode())
        self._digest.update(b"\n")
        self._mark()

    def finish(self) -> PartitionCheck:
        """The check, when all rows were taken."""
        self._skip_to(self._check.below)
        self._check.digest = self._digest.hexdigest()
        return self._check

    def _skip_to(self, seq: int) -> None:
        if seq > self._next:
            self._check.missing += seq - self._next
            _tell(self._check.gaps, (self._next, seq))

    def _mark(self) -> None:
        if self._next == self._until:
            self._check.prefix = self._digest.hexdigest()


def _tell(found: list[Any], what: Any) -> None:  # noqa: ANN401 - a number or a range
    if len(found) < _MOST_TOLD:
        found.append(what)


@dataclass(frozen=True, slots=True)
class Compaction:
    """Files before and after, files that nobody needs any more and that were deleted, bytes of the live ones."""

    source: str
    files_before: int
    files_after: int
    deleted: int
    bytes_after: int


def compact_archive(path: str, source: str, *, keep_hours: int = KEEP_HOURS) -> Compaction:
    """Merge small files, delete replaced ones older than `keep_hours`, and write a checkpoint of the table's log.

    No event is removed and positions stay with it, so what was verifiable stays so. Raises Later when the store fails
    or another writer was faster. Blocks.
    """
    table = open_archive(path)
    before = len(table.file_uris())
    failures: tuple[type[Exception], ...] = (*_delta_errors(), OSError)
    try:
        table.optimize.compact()
        gone = table.vacuum(retention_hours=keep_hours, dry_run=False, enforce_retention_duration=False)
        table.create_checkpoint()
    except failures as error:
        raise Later(f"the archive at {path} could not be compacted: {error}") from error
    sizes = table.get_add_actions(flatten=True)
    return Compaction(source, before, len(table.file_uris()), len(gone), sum(_column(sizes, "size_bytes")))


def _delta_errors() -> tuple[type[Exception], ...]:
    try:
        from deltalake.exceptions import DeltaError  # noqa: PLC0415 - only services that read the archive carry it
    except ImportError:
        return ()
    return (DeltaError,)


def _column(actions: Any, name: str) -> list[int]:  # noqa: ANN401 - a table of another Arrow library
    import pyarrow as pa  # noqa: PLC0415 - see _delta_errors

    values: list[int] = pa.table(actions).column(name).to_pylist()
    return values
