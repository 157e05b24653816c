"""Tables in files: Parquet, CSV and Arrow IPC, told apart by the suffix. The same table gives the same bytes."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
from pyarrow import csv, ipc, parquet

from tidemill.datasets.errors import DatasetError
from tidemill_contracts.pipeline import FieldSpec

FORMATS = {".parquet": "parquet", ".csv": "csv", ".arrow": "arrow", ".ipc": "arrow", ".feather": "arrow"}
ROW_GROUP = 65_536
_CSV_TYPES = {"float": pa.float64(), "integer": pa.int64(), "boolean": pa.bool_()}


def format_of(path: Path) -> str:
    """The format that a file's suffix names; raises DatasetError for another suffix."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise DatasetError(f"{path.name}: the suffix must be one of {', '.join(FORMATS)}")
    return found


def read_table(path: Path, fields: Mapping[str, FieldSpec]) -> pa.Table:
    """The table in a file; columns of a CSV file get the types that `fields` declares. Raises DatasetError."""
    readers: dict[str, Callable[[], pa.Table]] = {
        "parquet": lambda: parquet.read_table(path),
        "csv": lambda: csv.read_csv(path, convert_options=_csv_options(fields)),
        "arrow": lambda: ipc.open_file(pa.memory_map(str(path))).read_all(),
    }
    try:
        return readers[format_of(path)]().replace_schema_metadata(None)
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _csv_options(fields: Mapping[str, FieldSpec]) -> csv.ConvertOptions:
    types = {name: _CSV_TYPES.get(field.type, pa.string()) for name, field in fields.items()}
    return csv.ConvertOptions(column_types=types, strings_can_be_null=True)


def write_table(table: pa.Table, path: Path) -> str:
    """Write the file, complete or not at all; returns its SHA-256."""
    writers: dict[str, Callable[[Path], None]] = {
        "parquet": lambda to: parquet.write_table(table, to, compression="zstd", row_group_size=ROW_GROUP),
        "csv": lambda to: csv.write_csv(table, to),
        "arrow": lambda to: _write_ipc(table, to),
    }
    write = writers[format_of(path)]
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return file_digest(path)


def _write_ipc(table: pa.Table, path: Path) -> None:
    with ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=ROW_GROUP)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table_digest(table: pa.Table) -> str:
    """SHA-256 of a table's schema and values, however it is cut into chunks."""
    whole = pa.Table.from_batches(table.combine_chunks().to_batches(), schema=table.schema)
    sink = pa.BufferOutputStream()
    with ipc.new_stream(sink, whole.schema) as writer:
        writer.write_table(whole, max_chunksize=ROW_GROUP)
    return hashlib.sha256(sink.getvalue()).hexdigest()
