"""What the environment tells this service, beside what it tells every service."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from tidemill_runtime.settings import ServiceSettings

_MIB = 1024 * 1024


class Settings(ServiceSettings):
    """`TIDEMILL_*`. The spool's limit is one on answers: above it they are refused with 503, or a share is logged."""

    service: str = "serving"
    workers: int = Field(
        default=1, ge=0, le=64, validation_alias="TIDEMILL_SERVING_WORKERS",
        description="processes that share the port, each with its own part of the log; 0: one for each core",
    )  # fmt: skip
    worker: int | None = Field(
        default=None, ge=0, lt=64, validation_alias="TIDEMILL_SERVING_WORKER",
        description="set by the parent of several workers: which of them this process is",
    )  # fmt: skip
    root: Path | None = Field(
        default=None, validation_alias="TIDEMILL_SERVING_ROOT", description="set by the parent: the instance's folder"
    )
    sockets: Path | None = Field(
        default=None, validation_alias="TIDEMILL_SERVING_SOCKETS",
        description="set by the parent: where workers ask each other",
    )  # fmt: skip
    is_again: bool = Field(
        default=False, validation_alias="TIDEMILL_SERVING_AGAIN", description="set by the parent: after a crash"
    )
    spare: bool = Field(
        default=True, validation_alias="TIDEMILL_SERVING_KEEP_SPARE",
        description="with several workers: one more process that has its imports done and takes over where one ends",
    )  # fmt: skip
    grpc_port: int | None = Field(
        default=None, ge=0, le=65535, validation_alias="TIDEMILL_SERVING_GRPC_PORT",
        description="of the Open Inference Protocol over gRPC, beside the HTTP port on the same host; none: no gRPC",
    )  # fmt: skip
    bulk: bool = Field(
        default=True, validation_alias="TIDEMILL_SERVING_BULK",
        description="answer what comes over Kafka, on requests.<pipeline>; off: others do, or nobody",
    )  # fmt: skip
    spool_limit_bytes: int = Field(default=1024 * _MIB, ge=_MIB, description="of records that Kafka does not have yet")
    spool_at_limit: Literal["refuse", "sample"] = Field(
        default="refuse", description="sample: answer all and log a share, counted and marked, up to a quarter above"
    )
    spool_sample: float = Field(default=0.01, gt=0, le=1, description="the share that is logged at the limit")
    spool_keep_bytes: int = Field(default=64 * _MIB, ge=0, description="of shipped records, for repeated requests")
    spool_fsync: bool = Field(default=False, description="also survive a crash of the machine, at the disk's pace")
    snapshot_every_s: float = Field(default=30.0, gt=0, description="time between snapshots of a replica that changes")
    degraded_after_s: float = Field(default=3.0, gt=0, description="wait for Kafka before a start from the disk alone")
    sandbox_cpu_s: int = Field(default=20, ge=1, description="of a model's first opening")
    sandbox_wall_s: float = Field(default=30.0, gt=0, description="of a model's first opening")
    sandbox_memory_mib: int = Field(default=1024, ge=64, description="of a model's first opening")

    @property
    def count(self) -> int:
        """Number of workers."""
        return self.workers or os.cpu_count() or 1
