"""What the registry is told by its environment."""

from tidemill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """Nothing of its own."""

    service: str = "registry"
