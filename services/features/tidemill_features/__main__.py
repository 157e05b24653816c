"""`python -m tidemill_features`: everything it needs is in the environment."""

from tidemill_features.app import create
from tidemill_features.settings import Settings
from tidemill_runtime.service import run

if __name__ == "__main__":
    run(create, Settings())
