"""Records in, decisions and records out."""

from tidemill_ingestion.handlers.idle import IdleClock
from tidemill_ingestion.handlers.raw import GROUP, RawTask
from tidemill_ingestion.handlers.streams import Streams

__all__ = ["GROUP", "IdleClock", "RawTask", "Streams"]
