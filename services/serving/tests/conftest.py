"""Tests of this package share `serving_cases` and `serving_stack`: importlib mode leaves the folder off the path."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
async def one_loop(anyio_backend: str) -> AsyncIterator[None]:
    """The event loop of all tests of a module: gRPC's own client knows one for all of a process."""
    yield  # noqa: PT022 - the loop lives as long as this does
