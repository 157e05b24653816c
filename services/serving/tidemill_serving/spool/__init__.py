"""The prediction log: appended here before an answer leaves, shipped to Kafka in order, each record once."""

from tidemill_serving.spool.ids import OnceLog, SharedIds, spool_of, state_of
from tidemill_serving.spool.log import Spool, SpoolLimits
from tidemill_serving.spool.orders import Ordered
from tidemill_serving.spool.placing import partitions_of
from tidemill_serving.spool.reader import SpoolReader
from tidemill_serving.spool.shipper import Shipper

__all__ = [
    "OnceLog", "Ordered", "SharedIds", "Shipper", "Spool", "SpoolLimits", "SpoolReader", "partitions_of", "spool_of",
    "state_of",
]  # fmt: skip
