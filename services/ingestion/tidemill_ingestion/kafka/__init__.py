"""Kafka as this service needs it: writing with bounds, and looking dead letters up."""

from tidemill_ingestion.kafka.letters import Letters
from tidemill_ingestion.kafka.log import Busy, Log

__all__ = ["Busy", "Letters", "Log"]
