"""Fixtures of this package's tests."""

from collections.abc import AsyncIterator

import pytest

from tidemill_runtime.postgres import Pool, migrate, open_pool
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.settings import service_settings, settings

__all__ = ["service_settings", "settings"]

SCHEMA = "owner"


@pytest.fixture
async def pool(settings: ServiceSettings) -> AsyncIterator[Pool]:
    """A pool on an empty database in which the runtime's tables stand under the schema `owner`."""
    opened = await open_pool(settings.postgres)
    await migrate(opened, SCHEMA, "tidemill_runtime")
    yield opened
    await opened.close()
