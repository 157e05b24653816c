"""Log files that stay small. Children append to them directly, so rotation copies and truncates instead of renaming."""

import os
import shutil
from pathlib import Path

MAX_BYTES = 16 * 1024 * 1024
KEEP = 3


def rotate(path: Path, *, max_bytes: int = MAX_BYTES, keep: int = KEEP) -> bool:
    """Move a log above `max_bytes` to `path.1` (and that to `path.2`, up to `keep`); True if it did.

    A line written between copy and truncation is lost: logs are for people, no count is taken from them.
    """
    try:
        if path.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(keep, 1, -1):
        older = Path(f"{path}.{number - 1}")
        if older.exists():
            older.replace(f"{path}.{number}")
    shutil.copyfile(path, f"{path}.1")
    os.truncate(path, 0)
    return True
