"""The models of the Open Inference Protocol by name and version."""

from collections.abc import Mapping

from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.served import NO_MODEL, PipelineModel, RowTicks, Served


class ModelRepository:
    """Every released pipeline is a model of its champion's version."""

    def __init__(self, desks: Mapping[str, Desk], ticks: RowTicks) -> None:
        self._desks, self._ticks = desks, ticks

    def find(self, name: str, version: str | None) -> Served:
        """The model; raises RefusedError 404."""
        desk = self._desks.get(name)
        active = desk.champion.active if desk is not None else None
        if desk is None or active is None or version not in {None, str(active.leader.version)}:
            raise NO_MODEL.with_traceback(None)
        return PipelineModel(desk, active, self._ticks, version)
