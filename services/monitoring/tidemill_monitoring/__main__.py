"""`python -m tidemill_monitoring`."""

from tidemill_monitoring.app import create
from tidemill_monitoring.settings import Settings
from tidemill_runtime.service import run

if __name__ == "__main__":
    run(create, Settings())
