"""`python -m tidemill_serving`."""

from tidemill_runtime.service import run
from tidemill_serving.app import create
from tidemill_serving.settings import Settings

if __name__ == "__main__":
    run(create, Settings())
