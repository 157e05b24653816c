"""A finished dataset: Arrow inside, whatever library the caller likes outside."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from tidemill.datasets.errors import DatasetError
from tidemill.datasets.files import format_of, write_table
from tidemill.datasets.manifest import DatasetManifest, Output


@dataclass(frozen=True, slots=True)
class Table:
    """One row for each entity row, in the order given: the columns given, then the features; null is not known."""

    arrow: pa.Table
    manifest: DatasetManifest

    def __len__(self) -> int:
        return int(self.arrow.num_rows)

    def to_arrow(self) -> pa.Table:
        """A pyarrow.Table."""
        return self.arrow

    def to_pandas(self) -> Any:  # noqa: ANN401 - a pandas.DataFrame, which the base install does not have
        """A pandas.DataFrame; raises DatasetError without pandas."""
        _needs("pandas")
        return self.arrow.to_pandas()

    def to_polars(self) -> Any:  # noqa: ANN401 - a polars.DataFrame, which the base install does not have
        """A polars.DataFrame; raises DatasetError without polars."""
        return _needs("polars").from_arrow(self.arrow)

    def save(self, path: Path) -> DatasetManifest:
        """Write the file and, beside it, `<file>.manifest.json`; returns the manifest with the file's digest.

        Raises DatasetError for a suffix other than .parquet, .csv, .arrow.
        """
        digest = write_table(self.arrow, path)
        output = Output(format=format_of(path), rows=len(self), sha256=digest)
        full = self.manifest.model_copy(update={"output": output})
        manifest_path(path).write_text(full.text())
        return full


def manifest_path(path: Path) -> Path:
    """Where the manifest of a dataset's file is."""
    return path.with_name(f"{path.name}.manifest.json")


def _needs(package: str) -> Any:  # noqa: ANN401 - a module
    try:
        return importlib.import_module(package)
    except ImportError:
        raise DatasetError(f"this needs the package {package}, which is not installed: pip install {package}") from None
