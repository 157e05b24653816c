"""`python -m tidemill_trainer`."""

from tidemill_runtime.service import run
from tidemill_trainer.app import create
from tidemill_trainer.settings import Settings

if __name__ == "__main__":
    run(create, Settings())
