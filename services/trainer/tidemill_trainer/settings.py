"""What the trainer service is told by its environment."""

from pathlib import Path

from tidemill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """`lock` is the dependency lock whose digest goes into manifests; a killed trainer is back fast: a short lease."""

    service: str = "trainer"
    lock: Path | None = None
    lease_s: float = 20.0
    job_timeout_s: float = 3600.0
