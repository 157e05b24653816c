"""What the ingestion service is told, beside what every service is told."""

from pydantic import Field

from tidemill_runtime.settings import ServiceSettings

MIB = 1024 * 1024


class Settings(ServiceSettings):
    """`TIDEMILL_INGESTION_*` for the service's own limits."""

    service: str = "ingestion"
    max_in_flight_bytes: int = Field(
        default=64 * MIB, validation_alias="TIDEMILL_INGESTION_MAX_IN_FLIGHT_BYTES", ge=MIB,
        description="bodies that wait for the broker; above it requests are answered with 503 at once",
    )  # fmt: skip
    publish_timeout_s: float = Field(
        default=5.0, validation_alias="TIDEMILL_INGESTION_PUBLISH_TIMEOUT_S", gt=0,
        description="a request whose events the broker has not taken within this time is answered with 503",
    )  # fmt: skip
    archive_rows: int = Field(default=20_000, validation_alias="TIDEMILL_INGESTION_ARCHIVE_ROWS", ge=1)
    archive_seconds: float = Field(default=5.0, validation_alias="TIDEMILL_INGESTION_ARCHIVE_SECONDS", gt=0)
