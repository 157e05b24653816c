"""Feature values over a stored log: as of a time, as known at a time, and where they change."""

from tidemill_engine.history.asof import AsOf
from tidemill_engine.history.changes import change_times
from tidemill_engine.history.columns import ViewReader
from tidemill_engine.history.known import Known, backfill_known
from tidemill_engine.history.shards import shard_of

__all__ = ["AsOf", "Known", "ViewReader", "backfill_known", "change_times", "shard_of"]
