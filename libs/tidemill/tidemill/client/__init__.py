"""The typed client of the services, synchronous and asynchronous. Nothing is imported before it is used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill.client.clients import AsyncClient, Client
    from tidemill.client.errors import (
        ConflictError,
        DeadlineError,
        InvalidError,
        NotFoundError,
        QuotaError,
        RefusedError,
        TidemillError,
        UnauthorisedError,
        UnavailableError,
        UnreachableError,
    )
    from tidemill.client.transport import Endpoints

__all__ = [
    "AsyncClient", "Client", "ConflictError", "DeadlineError", "Endpoints", "InvalidError", "NotFoundError",
    "QuotaError", "RefusedError", "TidemillError", "UnauthorisedError", "UnavailableError", "UnreachableError",
]  # fmt: skip
_MODULES = {"AsyncClient": "clients", "Client": "clients", "Endpoints": "transport"}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    from importlib import import_module  # noqa: PLC0415 - only where something is used

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"tidemill.client.{_MODULES.get(name, 'errors')}"), name)
