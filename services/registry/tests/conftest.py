"""Tests of this package share `registry_cases`: importlib mode leaves the folder off the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
