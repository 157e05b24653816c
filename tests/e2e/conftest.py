"""Tests here share modules: importlib mode leaves the folder off the path."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("e2e_quarantine")
