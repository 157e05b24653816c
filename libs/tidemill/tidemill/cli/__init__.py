"""The command line. Each module here adds its commands with `register(app)`; `main` lists them."""

from tidemill.cli.main import main

__all__ = ["main"]
