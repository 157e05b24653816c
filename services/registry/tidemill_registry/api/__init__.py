"""What the registry answers over HTTP: pipelines, decisions by hand, and everything that was decided."""

from typing import Protocol

from tidemill_registry.api import decisions, imports, pipelines, reads
from tidemill_registry.api.imports import Importing
from tidemill_registry.api.ports import Registry
from tidemill_runtime.http import Route


class Whole(Registry, Importing, Protocol):
    """All that the routes need."""


def routes(registry: Whole) -> list[Route]:
    """The route table over the service."""
    return [
        *pipelines.routes(registry),
        *decisions.routes(registry),
        *reads.routes(registry),
        *imports.routes(registry),
    ]
