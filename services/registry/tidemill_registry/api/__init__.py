"""What the registry answers over HTTP: pipelines, decisions by hand, and everything that was decided."""

from tidemill_registry.api import decisions, pipelines, reads
from tidemill_registry.api.ports import Registry
from tidemill_runtime.http import Route


def routes(registry: Registry) -> list[Route]:
    """The route table over the service."""
    return [*pipelines.routes(registry), *decisions.routes(registry), *reads.routes(registry)]
