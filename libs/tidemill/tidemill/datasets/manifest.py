"""The manifest of a dataset: everything that decides its bytes, and what came out."""

import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field, ValidationError

import tidemill_contracts
import tidemill_engine
from tidemill.datasets.errors import DatasetError
from tidemill_contracts.base import Contract, Digest

Mode = Literal["event-time", "as-known"]


class EntityRowsSource(Contract):
    """Where the entity rows came from; `digest` is over their schema and values."""

    kind: Literal["file", "table", "source"]
    name: str
    time: str
    known_time: str | None = None
    count: int
    digest: Digest


class Output(Contract):
    """The file that was written."""

    format: str
    rows: int
    sha256: Digest


class DatasetManifest(Contract):
    """Names a dataset: built again from it, with the same code, the file has the same bytes.

    `events` gives by source and partition the dense number below which events were read, `values` is a digest over
    the output's schema and values whatever the file's format, `code` one over the sources that computed them.
    """

    version: Literal[1] = 1
    pipeline: str
    spec: Digest
    mode: Mode
    events: dict[str, dict[str, int]]
    views: dict[str, str]
    features: list[str]
    rows: EntityRowsSource
    excluded: dict[str, list[tuple[int, int]]] = Field(
        default_factory=dict, exclude_if=lambda excluded: not excluded,
        description="quarantined numbers of the rows' source by partition, both ends inclusive, which are no rows",
    )  # fmt: skip
    values: Digest
    code: Digest
    libraries: dict[str, str] = Field(default_factory=dict)
    output: Output | None = None

    def text(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def read_manifest(path: Path) -> DatasetManifest:
    """The manifest in a file; raises DatasetError if it is none, OSError if it cannot be read."""
    try:
        return DatasetManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DatasetError(f"{path} is not a dataset's manifest: {place}: {first['msg']}") from None


@cache
def code_digest() -> str:
    """SHA-256 over the Python sources that decide values: contracts, engine, this package."""
    digest = hashlib.sha256()
    for root in (_folder(tidemill_contracts.__file__), _folder(tidemill_engine.__file__), Path(__file__).parent):
        for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
            digest.update(f"{root.name}/{path.relative_to(root).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _folder(file: str | None) -> Path:
    return Path(file or "").parent


def libraries() -> dict[str, str]:
    """Versions of what writes the bytes."""
    return {"pyarrow": pa.__version__, "tidemill": version("tidemill")}
