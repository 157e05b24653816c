"""Imported models in Postgres: the row and its event are one transaction."""

from dataclasses import dataclass
from typing import Any

from tidemill_contracts import derived_id
from tidemill_contracts.events import ModelImported
from tidemill_registry.domain.imports import ImportRefusedError, choose_version
from tidemill_registry.store import PostgresUnit
from tidemill_runtime.postgres import Pool

KNOWN = "SELECT version, digest FROM registry.imports WHERE model = $1"
IMPORT = "INSERT INTO registry.imports (model, version, digest, size, event_id) VALUES ($1, $2, $3, $4, $5)"
LISTED = """SELECT model, version, digest, size, imported_at FROM registry.imports
    WHERE $1::text IS NULL OR model = $1 ORDER BY model, version"""


@dataclass(frozen=True, slots=True)
class Imports:
    """Imports within one transaction of the registry."""

    unit: PostgresUnit

    async def take(self, model: str, digest: str, size: int, wanted: int | None) -> tuple[int, bool]:
        """(version, whether it is new); announced where it is. Raises ImportRefusedError."""
        await self.unit.lock(model)
        if await self.unit.pipeline(model) is not None:
            raise ImportRefusedError("a pipeline has this name, and its releases are served under it")
        known = {row["version"]: row["digest"] for row in await self.unit.db.fetch(KNOWN, model)}
        version, is_new = choose_version(known, digest, wanted)
        if is_new:
            event_id = derived_id("import", model, version)
            await self.unit.db.execute(IMPORT, model, version, digest, size, event_id)
            event = ModelImported(model=model, version=version, digest=digest, size=size)
            await self.unit.announce(event, f"{model}@{version}", event_id, 0)
        return version, is_new


async def listed(pool: Pool, model: str | None = None) -> list[dict[str, Any]]:
    """The imported models, or the versions of one."""
    rows = await pool.fetch(LISTED, model)
    return [{**dict(row), "imported_at": row["imported_at"].isoformat()} for row in rows]
