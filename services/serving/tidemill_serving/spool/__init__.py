"""The prediction log: appended here before an answer leaves, shipped to Kafka in order, each record once."""

from tidemill_serving.spool.log import Spool, SpoolLimits, SpoolReader
from tidemill_serving.spool.shipper import Shipper, partition_of

__all__ = ["Shipper", "Spool", "SpoolLimits", "SpoolReader", "partition_of"]
