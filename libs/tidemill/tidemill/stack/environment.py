"""What a service learns from its environment, and which parts of the stack the user brings along."""

import os
from dataclasses import dataclass
from typing import Self

from tidemill.stack.paths import Home, cache_dir

# One core's worth of threads per process: six services share the machine, and results must not depend on its size.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class External:
    """Addresses of the parts that the user runs; None means that the embedded one is started."""

    kafka: str | None = None
    postgres: str | None = None
    artifacts: str | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """`TIDEMILL_KAFKA`, `TIDEMILL_POSTGRES` and `TIDEMILL_ARTIFACTS`; empty counts as unset."""
        kafka, postgres, artifacts = (
            os.environ.get(f"TIDEMILL_{name}") or None for name in ("KAFKA", "POSTGRES", "ARTIFACTS")
        )
        return cls(kafka=kafka, postgres=postgres, artifacts=artifacts)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the shared parts are."""

    kafka: str
    postgres: str
    artifacts: str


def service_environment(home: Home, name: str, port: int, shared: Addresses) -> dict[str, str]:
    """The whole environment of a service: the caller's, with its own addresses on top (`OTEL_*` passes through)."""
    own = {
        "TIDEMILL_KAFKA": shared.kafka,
        "TIDEMILL_POSTGRES": shared.postgres,
        "TIDEMILL_ARTIFACTS": shared.artifacts,
        "TIDEMILL_STATE": str(home.state(name)),
        "TIDEMILL_HOST": "127.0.0.1",
        "TIDEMILL_PORT": str(port),
        "TIDEMILL_ENDPOINTS": str(home.endpoints),
        "NUMBA_CACHE_DIR": str(cache_dir() / "numba"),
        "PYTHONUNBUFFERED": "1",
    }
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        # Nothing beside the sources, then. Without bytecode anywhere each start compiles them anew: a second of two.
        own |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(cache_dir() / "bytecode")}
    return {**dict.fromkeys(_ONE_THREAD, "1"), **os.environ, **own}
