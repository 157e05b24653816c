"""Tidemill: keep machine-learning models good while the world moves.

with tidemill.Client() as client:
    client.predict("flight-delay", {...}).score
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidemill.client import AsyncClient, Client, Endpoints, RefusedError, TidemillError, UnreachableError

__all__ = ["AsyncClient", "Client", "Endpoints", "RefusedError", "TidemillError", "UnreachableError"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tidemill import client  # noqa: PLC0415 - `import tidemill` stays light

    return getattr(client, name)
