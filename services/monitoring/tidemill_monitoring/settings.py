"""What the monitoring service is told by its environment."""

from tidemill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """`checkpoint_s` bounds how much is folded again after a crash; decisions are always committed at once."""

    service: str = "monitoring"
    checkpoint_s: float = 2.0
