"""A finished run: load, judge, save. Registering, verdict and release are one transaction."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from tidemill_contracts.events import GateDecided, Released, RunFinished, TrainingManifest
from tidemill_engine.stats import GateRows
from tidemill_registry.domain.champion import Version
from tidemill_registry.domain.review import Standing, follow_up, judge


class Unit(Protocol):
    """One transaction of the registry."""

    async def lock(self, pipeline: str) -> None: ...
    async def standing(self, pipeline: str) -> Standing | None: ...
    async def register(self, run: RunFinished, *, features: list[str], views: dict[str, str], spec: str) -> Version: ...
    async def save_gate(self, decision: GateDecided) -> None: ...
    async def release(self, release: Released) -> None: ...
    async def close_request(
        self, run: RunFinished, status: str, *, epoch: int | None, version: int | None, detail: str = ""
    ) -> None: ...


class Evidence(Protocol):
    """What a run left in the artifact store; raises when it is not there (yet) or was changed."""

    async def manifest(self, digest: str) -> TrainingManifest: ...
    async def gate_rows(self, digest: str, base_rate: float) -> GateRows: ...
    async def check_model(self, digest: str) -> None: ...
    async def check_reference(self, digest: str, model: str, features: list[str]) -> None: ...


def on_run_finished(evidence: Evidence) -> Callable[[RunFinished, Unit], Awaitable[None]]:
    """The handler of finished runs."""

    async def handle(run: RunFinished, unit: Unit) -> None:
        await unit.lock(run.pipeline)
        standing = await unit.standing(run.pipeline)
        if run.status != "succeeded" or run.model is None or run.manifest is None or run.evaluation is None:
            await unit.close_request(run, run.status, epoch=None, version=None, detail=run.error or "")
            return
        if standing is None:
            await unit.close_request(run, "refused", epoch=None, version=None, detail="there is no such pipeline")
            return
        await evidence.check_model(run.model)
        manifest = await evidence.manifest(run.manifest)
        if run.reference is not None:
            await evidence.check_reference(run.reference, run.model, manifest.features)
        rows = await evidence.gate_rows(run.evaluation, run.metrics.get("base_rate", 0.5))
        version = await unit.register(run, features=manifest.features, views=manifest.views, spec=manifest.spec)
        decided = judge(run, version, rows, standing)
        await unit.save_gate(decided)
        status, release = follow_up(run, version, decided, standing)
        if release is not None:
            await unit.release(release)
        detail = next((check.reason for check in decided.checks if check.verdict == decided.verdict != "pass"), "")
        epoch = None if release is None else release.epoch
        await unit.close_request(run, status, epoch=epoch, version=version.version, detail=detail)

    return handle
