"""The files that one `PipelineApplied` carries, read: the newest, and the earlier ones that releases were made for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tidemill_contracts.events import PipelineApplied
from tidemill_contracts.pipeline.spec import PipelineSpec


@dataclass(slots=True)
class AppliedFiles:
    """`newest` is None where it cannot be read here, as in a service older than the file; `problems` says why.

    `kept` has earlier files by their digest, less those that cannot be read.
    """

    digest: str
    newest: PipelineSpec | None = None
    kept: dict[str, PipelineSpec] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def by_digest(self) -> dict[str, PipelineSpec]:
        """All of them, the newest first."""
        newest = {} if self.newest is None else {self.digest: self.newest}
        return newest | self.kept


def files_of(applied: PipelineApplied) -> AppliedFiles:
    """Read them; never raises: an unreadable file of one pipeline must not stop those that read of all."""
    found = AppliedFiles(applied.digest)
    found.newest = _read(applied, applied.digest, applied.spec, found.problems)
    for file in applied.kept:
        spec = _read(applied, file.digest, file.spec, found.problems)
        if spec is not None:
            found.kept[file.digest] = spec
    return found


def _read(applied: PipelineApplied, digest: str, spec: Mapping[str, Any], problems: list[str]) -> PipelineSpec | None:
    try:
        return PipelineSpec.of(spec)
    except ValidationError as error:
        problems.append(f"file {digest[:12]} at revision {applied.revision} of {applied.pipeline}: {error}")
        return None
