"""Drift: of inputs, by a test on populations; of the concept, by detectors on paired values. Replays alarm alike."""

from tidemill_engine.drift.bins import ColumnBins, HistogramReference, merge
from tidemill_engine.drift.paired import Alarm, PairedDetector, PairedSettings
from tidemill_engine.drift.population import PopulationResult, population_test
from tidemill_engine.drift.ranges import RangeSettings

__all__ = [
    "Alarm",
    "ColumnBins",
    "HistogramReference",
    "PairedDetector",
    "PairedSettings",
    "PopulationResult",
    "RangeSettings",
    "merge",
    "population_test",
]
