"""`python -m tidemill_registry`."""

from tidemill_registry.app import create
from tidemill_registry.settings import Settings
from tidemill_runtime.service import run

if __name__ == "__main__":
    run(create, Settings())
