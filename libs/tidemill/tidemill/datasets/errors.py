"""What can go wrong with a dataset, in words that a user can act on."""

from tidemill.client.errors import TidemillError


class DatasetError(TidemillError):
    """The rows, the manifest or the archive do not allow this dataset."""
