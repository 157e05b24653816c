"""What a restart needs when nothing else is there: the releases of each pipeline, and a snapshot of the replica."""

from pathlib import Path

from tidemill_serving.store.imported import ImportedFile
from tidemill_serving.store.releases import ReleaseFiles
from tidemill_serving.store.snapshots import Snapshots


class Store(ReleaseFiles, Snapshots, ImportedFile):
    """Files in this instance's folder."""

    def __init__(self, folder: Path) -> None:
        ReleaseFiles.__init__(self, folder)
        Snapshots.__init__(self, folder)
        ImportedFile.__init__(self, folder)
