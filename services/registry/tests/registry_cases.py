"""Versions, runs and gate rows of a small pipeline, and a database for it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid5

import numpy as np

from tidemill_contracts.events import Cause, RunFinished
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.stats import GateRows
from tidemill_registry.domain.champion import Version
from tidemill_registry.store import SCHEMA, open_unit
from tidemill_runtime.postgres import Pool, migrate, open_pool

DAY = 86_400_000_000
SPACE = UUID(int=7)


def a_version(number: int, model: str | None = None) -> Version:
    """A version with a digest of its own."""
    return Version(number, model or f"{number:064x}", ["request.a"], {}, "c" * 64)


def a_run(number: int, *, champion_epoch: int = 0, **changes: object) -> RunFinished:
    """A run that succeeded."""
    fields: dict[str, Any] = {
        "run_id": uuid5(SPACE, f"run{number}"), "request_id": uuid5(SPACE, f"request{number}"), "pipeline": "demo",
        "status": "succeeded", "at_us": number * DAY, "cause": Cause(kind="hand"), "model": f"{number:064x}",
        "manifest": "d" * 64, "evaluation": "e" * 64, "reference": "f" * 64, "champion_epoch": champion_epoch,
        "metrics": {"parity_error": 0.0, "size_bytes": 10.0, "base_rate": 0.5},
    }  # fmt: skip
    fields.update(changes)
    return RunFinished(**fields)


def gate_rows(candidate_skill: float, champion_skill: float | None = None) -> GateRows:
    """Ten days of rows on which scores know the label to the degree of their skill."""
    rng = np.random.default_rng(0)
    labels = (rng.random(2000) < 0.5).astype(float)

    def scores(skill: float) -> Any:  # noqa: ANN401 - a column
        return np.clip(0.5 + skill * (labels - 0.5) + rng.normal(0, 0.02, 2000), 0.01, 0.99)

    champion = None if champion_skill is None else scores(champion_skill)
    return GateRows(np.arange(2000) * (DAY // 200), labels, scores(candidate_skill), champion, 0.5)


def on_database(dsn: str, work: Callable[[Pool], Coroutine[Any, Any, None]]) -> None:
    """Run `work` over a migrated database."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Pool]:
        pool = await open_pool(dsn, max_size=16)
        try:
            await migrate(pool, SCHEMA, "tidemill_registry")
            yield pool
        finally:
            await pool.close()

    async def run() -> None:
        async with opened() as pool:
            await work(pool)

    asyncio.run(run())


async def applied(pool: Pool, spec: PipelineSpec) -> None:
    """The pipeline, known to the registry."""
    async with open_unit(pool, "tidemill") as unit:
        await unit.apply(spec)
