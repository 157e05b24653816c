"""`python -m tidemill_serving [--workers N]`."""

import argparse
import os
import sys

from tidemill_runtime.service import run
from tidemill_serving.settings import Settings
from tidemill_serving.spare import VARIABLE, stand_by


def main() -> None:
    """One process, or the parent of several."""
    parser = argparse.ArgumentParser(
        prog="python -m tidemill_serving", description="Answer predictions over HTTP and log each once.",
        epilog="Example: TIDEMILL_PORT=8080 python -m tidemill_serving --workers 4",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes that share the port; 0: one for each core")
    if VARIABLE in os.environ:
        import numpy as np  # noqa: F401, PLC0415 - its helper threads have the priority of whoever imports it

        stand_by(_prepare)  # returns as the worker that is missing
    workers = parser.parse_args().workers
    if workers is not None:
        os.environ["TIDEMILL_SERVING_WORKERS"] = str(workers)
    settings = Settings()
    if settings.count > 1 and settings.worker is None:
        from tidemill_serving.process import supervise  # noqa: PLC0415 - the parent stays small: it imports no models

        sys.exit(supervise(settings))
    from tidemill_serving.app import create  # noqa: PLC0415 - as above

    run(create, settings)


def _prepare() -> None:
    from tidemill_serving.app import warm_up  # noqa: PLC0415 - as above

    warm_up()


if __name__ == "__main__":
    main()
