"""Shared by every test: real Kafka and Postgres fixtures, asyncio as the one event loop, and patience."""

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tidemill_testkit.fixtures"]
# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("tidemill", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("tidemill")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The event loop of async tests; session-wide, so that fixtures of any scope may be async."""
    return "asyncio"
