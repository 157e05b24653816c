"""From a prediction down to the events it rests on, and up to the run that made its model and to that run's cause."""

from tidemill.lineage.steps import Lineage, Step
from tidemill.lineage.walking import walk

__all__ = ["Lineage", "Step", "walk"]
