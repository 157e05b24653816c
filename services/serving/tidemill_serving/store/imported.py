"""Which imported models there are, on disk."""

import logging
from pathlib import Path

import msgspec

from tidemill_serving.store.files import replace

_log = logging.getLogger(__name__)
Known = tuple[list[tuple[str, int, str]], list[str]]


class ImportedFile:
    """A file in this instance's folder, replaced as a whole."""

    def __init__(self, folder: Path) -> None:
        self._imported = folder / "imported.json"

    def save_imported(self, models: list[tuple[str, int, str]], unloaded: list[str]) -> None:
        """Remember the imported models, (name, version, digest), and the names of those that are switched off."""
        replace(self._imported, msgspec.json.encode((models, unloaded)))

    def load_imported(self) -> Known:
        """What `save_imported` wrote; nothing where that cannot be read."""
        try:
            known: Known = msgspec.json.decode(self._imported.read_bytes(), type=Known)
        except FileNotFoundError:
            return [], []
        except ValueError:
            _log.exception("the imported models cannot be read from the disk")
            return [], []
        return known
