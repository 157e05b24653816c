"""Fixtures of this package's tests."""

import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidemill_runtime.postgres import Pool, migrate, open_pool
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.settings import service_settings, settings

__all__ = ["service_settings", "settings"]

SCHEMA = "owner"
sys.path.insert(0, str(Path(__file__).parent))  # for `rpc_peer`: importlib mode leaves the folder off the path


@pytest.fixture
async def pool(settings: ServiceSettings) -> AsyncIterator[Pool]:
    """A pool on an empty database in which the runtime's tables stand under the schema `owner`."""
    opened = await open_pool(settings.postgres)
    await migrate(opened, SCHEMA, "tidemill_runtime")
    yield opened
    await opened.close()


@pytest.fixture
def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
