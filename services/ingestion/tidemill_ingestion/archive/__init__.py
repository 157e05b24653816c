"""The archive of events, exactly once."""

from tidemill_ingestion.archive.buffer import Archive, ArchiveTask
from tidemill_ingestion.archive.delta import EventTable

__all__ = ["Archive", "ArchiveTask", "EventTable"]
