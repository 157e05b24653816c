"""House rules that no ready-made linter holds: `make check` runs `python -m tidemill_testkit.checks.<name>`."""
