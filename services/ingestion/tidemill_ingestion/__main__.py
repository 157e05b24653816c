"""`python -m tidemill_ingestion`."""

from tidemill_ingestion.app import create
from tidemill_ingestion.settings import Settings
from tidemill_runtime.service import run

if __name__ == "__main__":
    run(create, Settings())
