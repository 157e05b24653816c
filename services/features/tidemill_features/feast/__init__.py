"""Feast's remote online store: the features service answers the protocol of `feast serve` 0.67.

Reading comes from a replica of the compacted topics of vectors that is built when the first request arrives; a push
becomes events of the view's source, by way of ingestion.
"""

from tidemill_features.feast.routes import feast_routes
from tidemill_features.feast.store import FeastStore

__all__ = ["FeastStore", "feast_routes"]
