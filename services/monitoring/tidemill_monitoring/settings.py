"""What the monitoring service is told by its environment."""

from pydantic import Field

from tidemill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """`checkpoint_s` bounds how much is folded again after a crash; decisions are always committed at once."""

    service: str = "monitoring"
    checkpoint_s: float = 2.0
    parity_every_s: float = Field(
        default=600.0, validation_alias="TIDEMILL_MONITORING_PARITY_EVERY_S", ge=0,
        description="pause between samples of answers that are computed again from the archive; 0: none are",
    )  # fmt: skip
    parity_one_in: int = Field(
        default=8, validation_alias="TIDEMILL_MONITORING_PARITY_ONE_IN", ge=1,
        description="share of the newest answers that a sample looks at, chosen by their ids",
    )  # fmt: skip
    silent_s: float = Field(
        default=60.0, validation_alias="TIDEMILL_MONITORING_SILENT_S", gt=0,
        description="a replica of serving that tells no progress for so long, while others do, is not waited for",
    )  # fmt: skip
