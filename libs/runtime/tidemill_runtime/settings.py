"""What every service is told by its environment: `TIDEMILL_*` and the OpenTelemetry endpoint."""

from ipaddress import ip_address
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tidemill_runtime.errors import Configuration


class ServiceSettings(BaseSettings):
    """Read once by the composition root. A service subclasses it, gives `service` a default and adds its own."""

    model_config = SettingsConfigDict(
        env_prefix="TIDEMILL_", frozen=True, extra="ignore", hide_input_in_errors=True, populate_by_name=True
    )

    service: str = "tidemill"
    instance: str = Field(
        default="0", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="unique among replicas of a service"
    )
    kafka: str = Field(description="bootstrap servers, host:port[,host:port]")
    postgres: str = Field(description="connection URI")
    artifacts: str = Field(description="directory or s3:// URL")
    state: Path = Field(description="this instance's own directory")
    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)
    api_key: SecretStr | None = None
    api_keys: Path | None = Field(default=None, description="a JSON file of more keys, each with its bounds")
    connections: int = Field(default=10_000, ge=16, description="at a time; fewer where fewer files may be open")
    prefix: str = Field(
        default="tidemill", pattern=r"^[a-z][a-z0-9-]{0,80}$", description="first part of every topic name"
    )
    session_timeout_ms: int = Field(
        default=30_000, ge=1000, description="a group member that is silent for this long loses its partitions"
    )
    log_level: str = "INFO"
    otlp_endpoint: str | None = Field(default=None, validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT")

    @property
    def client_id(self) -> str:
        """Names this process to Kafka and Postgres; also its static group membership."""
        return f"{self.prefix}-{self.service}-{self.instance}"

    def check_exposure(self) -> None:
        """Raises Configuration when others could reach the server and it would ask them for nothing."""
        if self.api_key is None and self.api_keys is None and not is_loopback(self.host):
            msg = (
                f"TIDEMILL_HOST={self.host} is reachable from other machines and TIDEMILL_API_KEY is not set. "
                "Set a key, or bind to 127.0.0.1."
            )
            raise Configuration(msg)


def is_loopback(host: str) -> bool:
    """Whether a server bound to `host` is reachable from this machine only; an unknown name counts as reachable."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
