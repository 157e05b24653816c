"""Whether logged vectors are what the log of events gives: computed again, bit for bit, by the engine's own kernels."""

from tidemill_engine.parity.check import Mismatch, Parity, check
from tidemill_engine.parity.layout import Layout
from tidemill_engine.parity.logged import Answer, Logged
from tidemill_engine.parity.source import COLUMNS, Archived, collect

__all__ = ["COLUMNS", "Answer", "Archived", "Layout", "Logged", "Mismatch", "Parity", "check", "collect"]
