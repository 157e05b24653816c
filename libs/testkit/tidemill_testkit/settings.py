"""Settings of a service under test, on the session's real servers, with names of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tidemill_runtime.settings import ServiceSettings


@pytest.fixture
def service_settings(
    kafka_bootstrap: str, postgres_dsn: str, topic_prefix: str, tmp_path: Path
) -> Callable[..., ServiceSettings]:
    """Makes ServiceSettings on the test's own database and topic prefix; keywords replace fields (`instance`)."""

    def make(**fields: object) -> ServiceSettings:
        values: dict[str, object] = {
            "service": "test", "kafka": kafka_bootstrap, "postgres": postgres_dsn, "prefix": topic_prefix,
            "artifacts": str(tmp_path / "artifacts"), "state": tmp_path / "state",
        }  # fmt: skip
        return ServiceSettings.model_validate(values | fields)

    return make


def environment(settings: ServiceSettings) -> dict[str, str]:
    """The environment in which a child process reads the same settings."""
    return {
        "TIDEMILL_KAFKA": settings.kafka, "TIDEMILL_POSTGRES": settings.postgres, "TIDEMILL_PREFIX": settings.prefix,
        "TIDEMILL_ARTIFACTS": settings.artifacts, "TIDEMILL_STATE": str(settings.state),
        "TIDEMILL_INSTANCE": settings.instance, "TIDEMILL_SERVICE": settings.service,
    }  # fmt: skip


@pytest.fixture
def settings(service_settings: Callable[..., ServiceSettings]) -> ServiceSettings:
    """Settings of one instance of a service called `test`."""
    return service_settings()
