"""Datasets: one row of features for each entity row, as of its time, from the archive of events.

table = tidemill.datasets.build("flight-delay", rows="flights.parquet")
table.to_pandas()
"""

from tidemill.datasets.build import Options, build
from tidemill.datasets.errors import DatasetError
from tidemill.datasets.join import join
from tidemill.datasets.manifest import DatasetManifest
from tidemill.datasets.rows import FromSource
from tidemill.datasets.table import Table
from tidemill.datasets.timeline import Timeline, backfill_view

__all__ = [
    "DatasetError", "DatasetManifest", "FromSource", "Options", "Table", "Timeline", "backfill_view", "build", "join",
]  # fmt: skip
