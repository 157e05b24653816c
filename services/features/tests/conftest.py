"""Tests of this package share `features_cases`: importlib mode leaves the folder off the path."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidemill_features.store import SCHEMA
from tidemill_runtime.postgres import Pool, migrate, open_pool

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
async def pool(postgres_dsn: str) -> AsyncIterator[Pool]:
    """Connections to a database of the test's own with this service's tables."""
    opened = await open_pool(postgres_dsn)
    await migrate(opened, SCHEMA, "tidemill_features")
    yield opened
    await opened.close()
