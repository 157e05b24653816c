"""Shared by every test: real Kafka and Postgres fixtures, and asyncio as the one event loop."""

import pytest

pytest_plugins = ["tidemill_testkit.fixtures"]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests; session-wide, so that fixtures of any scope may be async."""
    return "asyncio"
