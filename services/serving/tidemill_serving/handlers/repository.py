"""The models of the Open Inference Protocol by name and version: pipelines' champions and imported models."""

from collections.abc import Iterator
from typing import NamedTuple

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.house import House
from tidemill_serving.domain.imported import READY, UNAVAILABLE
from tidemill_serving.domain.served import NO_MODEL, PipelineModel, RowTicks, Served
from tidemill_serving.handlers.importing import Importer
from tidemill_serving.handlers.running import ImportedModel, Runs


class Indexed(NamedTuple):
    """A version of a model as it stands."""

    name: str
    version: str
    state: str
    reason: str


class ModelRepository:
    """Every released pipeline is a model of its champion's version; an imported one may have several."""

    def __init__(self, house: House, ticks: RowTicks, runs: Runs, importer: Importer) -> None:
        self._house, self._ticks, self._runs, self._importer = house, ticks, runs, importer

    def find(self, name: str, version: str | None) -> Served:
        """The model; raises RefusedError 404."""
        desk = self._house.desks.get(name)
        if desk is None:
            return self._imported(name, version)
        active = desk.champion.active
        if active is None or version not in {None, str(active.leader.version)}:
            raise NO_MODEL.with_traceback(None)
        return PipelineModel(desk, active, self._ticks, version)

    def _imported(self, name: str, version: str | None) -> Served:
        catalogue = self._house.catalogue
        found = catalogue.find(name, version)
        if found is None or found.graph is None:
            raise NO_MODEL.with_traceback(None)
        versions = sorted(each.version for each in catalogue.models[name].values() if each.state == READY)
        return ImportedModel(found, found.graph, self._runs, [str(each) for each in versions])

    def index(self) -> Iterator[Indexed]:
        """Every version that is known, by name."""
        for name, desk in sorted(self._house.desks.items()):
            active = desk.champion.active
            version = "" if active is None else str(active.leader.version)
            yield Indexed(name, version, *((UNAVAILABLE, "no release yet") if active is None else (READY, "")))
        for name, versions in sorted(self._house.catalogue.models.items()):
            if name not in self._house.desks:
                for number, found in sorted(versions.items()):
                    yield Indexed(name, str(number), found.state, found.reason)

    async def switch(self, name: str, *, loaded: bool) -> None:
        """Load or unload a model; raises RefusedError. A pipeline's follows its releases and cannot be unloaded."""
        desk = self._house.desks.get(name)
        if desk is None:
            await self._importer.switch(name, loaded=loaded)
        elif not loaded:
            raise RefusedError(400, "follows", "a pipeline's model follows its releases and cannot be unloaded")
        elif desk.champion.active is None:
            raise RefusedError(400, "no release", "the pipeline has no release yet: train first")
