"""What the environment tells this service, beside what it tells every service."""

from pathlib import Path

from pydantic import Field

from tidemill_runtime.settings import ServiceSettings


class Settings(ServiceSettings):
    """`TIDEMILL_*`; checkpoints bound what is computed again after a crash, not what is lost."""

    service: str = "features"
    checkpoint_every_s: float = Field(default=2.0, gt=0, description="longest time between checkpoints with changes")
    checkpoint_every_events: int = Field(default=20_000, ge=1, description="most records between checkpoints")
    keys_in_memory: int = Field(
        default=1_000_000, ge=1, description="of all views here; the state of further keys lies in Postgres alone"
    )
    linger_ms: float = Field(default=4.0, ge=0, description="wait for more before a transaction of vectors")
    dead_letter_share: float = Field(default=0.5, gt=0, le=1, description="of the latest records, before a stop")
    dead_letter_run: int = Field(default=1000, ge=1, description="bad records in a row before a stop")
    forget_after_s: float = Field(
        default=7 * 24 * 3600, ge=0, description="state and topics of a view's version that no file names are kept"
    )
    feast: bool = Field(default=True, description="answer Feast's protocol; nothing is read or kept until it is used")
    feast_max_bytes: int = Field(
        default=512 * 1024 * 1024, ge=1, description="of vectors kept for it: about 300 and 8 per feature for an entity"
    )
    ingestion_url: str | None = Field(default=None, description="where pushes go; the embedded stack says it otherwise")
    endpoints: Path | None = Field(default=None, description="the embedded stack's list of addresses")
