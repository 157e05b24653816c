"""Apply a pipeline and see how it stands."""

from starlette.requests import Request

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_registry.api.fields import invalid
from tidemill_registry.api.models import Applied, PipelineAnswer
from tidemill_registry.api.ports import Registry, Unit
from tidemill_registry.domain.kept import taken_away
from tidemill_registry.domain.views import missing_views
from tidemill_runtime.http import HttpProblem, Route, read_model


async def _taken_away(unit: Unit, spec: PipelineSpec) -> list[str]:
    """What the newest release needs of its own file and `spec` does not bring."""
    releases = await unit.releases(spec.name)
    before = await unit.file(releases[-1].spec) if releases else None
    return [] if before is None else list(taken_away(before, spec))


def routes(registry: Registry) -> list[Route]:
    """Routes over the registry."""

    async def put(request: Request) -> Applied:
        spec = await read_model(request, PipelineSpec)
        if spec.name != request.path_params["pipeline"]:
            raise invalid("name", "path", "the name in the file and in the address differ")
        if await registry.imported(spec.name):
            raise HttpProblem(409, "an imported model has this name, and serving answers for it")
        await registry.make_topics(spec)
        async with registry.unit() as unit:
            await unit.lock(spec.name)
            if gone := missing_views(await unit.standing(spec.name), spec):
                raise HttpProblem(
                    409, f"the release that answers reads {', '.join(gone)}: release a model without first"
                )
            if lost := await _taken_away(unit, spec):
                raise HttpProblem(409, f"the release that answers needs {', '.join(lost)}, which this file takes away")
            event = await unit.apply(spec)
        return Applied(pipeline=spec.name, revision=event.revision, digest=event.digest)

    async def get(request: Request) -> PipelineAnswer:
        name = request.path_params["pipeline"]
        row = await registry.queries().pipeline(name)
        if row is None:
            raise HttpProblem(404, "there is no such pipeline")
        return PipelineAnswer(pipeline=name, **row)

    return [
        Route(method="PUT", path="/v1/pipelines/{pipeline}", endpoint=put, summary="Apply a pipeline file (as JSON)",
              request=PipelineSpec, response=Applied, statuses=(400, 409, 422)),
        Route(method="GET", path="/v1/pipelines/{pipeline}", endpoint=get, summary="A pipeline",
              response=PipelineAnswer, statuses=(404,)),
    ]  # fmt: skip
