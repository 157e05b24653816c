"""Files that are replaced as a whole."""

from pathlib import Path


def replace(file: Path, data: bytes) -> None:
    """Write beside it, then put it in its place."""
    beside = file.with_suffix(".part")
    beside.write_bytes(data)
    beside.replace(file)
