"""Contracts with the outside are held by what the services' own tests build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "services" / "serving" / "tests"))
