"""The archive's Delta Lake table: rows and the positions they stand for go in with one commit. Calls block."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from tidemill_ingestion.domain.archive import Move, Row
from tidemill_runtime.errors import Fenced, Later

COMPACT_EVERY = 64
"""Commits: so many small files at most lie beside the large ones."""
KEEP_HOURS = 24
"""Replaced files stay for readers that opened the table before."""
_SCHEMA = pa.schema([
    ("partition", pa.int32()), ("seq", pa.int64()), ("offset", pa.int64()), ("raw_offset", pa.int64()),
    ("id", pa.string()), ("event_us", pa.int64()), ("ingest_us", pa.int64()), ("key", pa.string()),
    ("body", pa.string()), ("outcome", pa.string()),
])  # fmt: skip
_WRITER = WriterProperties(compression="ZSTD")


class EventTable:
    """One source's table. Positions are Delta's application transactions, so they move with the rows or not at all."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._table: DeltaTable | None = None
        self._commits = 0

    def positions(self, names: Sequence[str]) -> dict[str, int]:
        """The newest committed positions among `names`; those that were never committed are left out."""
        try:
            table = self._newest()
            found = {name: table.transaction_version(name) for name in names}
        except (DeltaError, OSError) as error:
            raise Later(f"the archive at {self._path}: {error}") from error
        return {name: version for name, version in found.items() if version is not None}

    def append(self, rows: Sequence[Row], moves: Sequence[Move]) -> None:
        """Add the rows and move the positions in one commit; raises Fenced when another writer moved one."""
        try:
            table = self._newest()
            for move in moves:
                if table.transaction_version(move.name) != move.low:
                    raise Fenced(f"{move.name} of {self._path} is no longer at {move.low}")
            transactions = [Transaction(move.name, move.high) for move in moves]
            write_deltalake(
                table, _columns(rows), mode="append", writer_properties=_WRITER,
                commit_properties=CommitProperties(app_transactions=transactions),
            )  # fmt: skip
        except CommitFailedError as error:
            self._table = None
            raise Fenced(f"the archive at {self._path}: {error}") from error
        except (DeltaError, OSError) as error:
            self._table = None
            raise Later(f"the archive at {self._path}: {error}") from error
        self._commits += 1
        if self._commits % COMPACT_EVERY == 0:
            self._compact(table)

    def _newest(self) -> DeltaTable:
        if self._table is None:
            if "://" not in self._path:
                Path(self._path).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(self._path, _SCHEMA, mode="ignore")
            self._table = DeltaTable(self._path)
        else:
            self._table.update_incremental()
        return self._table

    def _compact(self, table: DeltaTable) -> None:
        """Few large files instead of many small ones; not worth an error, the next commits try again."""
        try:
            table.optimize.compact()
            table.vacuum(retention_hours=KEEP_HOURS, dry_run=False, enforce_retention_duration=False)
        except (DeltaError, OSError):
            self._table = None


def _columns(rows: Sequence[Row]) -> pa.Table:
    columns: Iterable[Sequence[object]] = zip(*rows, strict=True) if rows else [()] * len(_SCHEMA)
    return pa.table(
        [pa.array(column, each.type) for column, each in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
    )
