"""Tests of this package share `ingestion_stack`: importlib mode leaves the folder off the path."""

import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.fixtures import unique_name

sys.path.insert(0, str(Path(__file__).parent))

from ingestion_stack import Running, running


@pytest.fixture(scope="module")
def service_dsn(postgres_template: Callable[[str], str]) -> str:
    """A database for one module."""
    return postgres_template("")


@pytest.fixture(scope="module")
async def service(
    kafka_bootstrap: str, service_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Running]:
    """One service for all tests of a module: each uses ids of its own."""
    folder = tmp_path_factory.mktemp("ingestion")
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres=service_dsn, artifacts=str(folder / "artifacts"),
        state=folder / "state", prefix=unique_name("i"),
    )  # fmt: skip
    async with running(settings) as found:
        yield found
