"""What `make lock` resolves: the dependencies that the packages and the root declare, and nothing else.

`python -m tidemill_testkit.checks.requirements [group ...]` writes them to standard output, one a line.
"""

import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

from tidemill_testkit.checks.workspace import distribution, packages


def requirements(root: Path, groups: Sequence[str] = ()) -> list[str]:
    """Third-party requirements of every shipped package, the `install` group, and the root groups named.

    The testkit is never shipped, so its own dependencies belong to the `dev` group.
    """
    members = list(packages(root))
    own = {package.name for package in members}
    shipped = [line for package in members if package.name != "tidemill-testkit" for line in package.dependencies]
    declared = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    for group in ("install", *groups):
        shipped += declared[group]
    return sorted({line for line in shipped if distribution(line) not in own})


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(Path.cwd(), sys.argv[1:])) + "\n")
