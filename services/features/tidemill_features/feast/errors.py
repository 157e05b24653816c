"""What this edge refuses, in Feast's words where Feast has any.

FeastRefusal
  UnknownView, UnknownService, UnknownPushSource, Collision: the SDK raises its own class of the same meaning
InvalidRequestError: broken rules of single fields
NotNowError: nothing is wrong with the request
"""

from collections.abc import Sequence
from dataclasses import dataclass


class FeastRefusal(ValueError):  # noqa: N818 - its subclasses are named for what they tell
    """`feast_class` is the class in `feast.errors` that the SDK makes of it."""

    feast_class = "FeastError"


class UnknownView(FeastRefusal):
    """There is no such feature view."""

    feast_class = "FeatureViewNotFoundException"


class UnknownService(FeastRefusal):
    """There is no such feature service."""

    feast_class = "FeatureServiceNotFoundException"


class UnknownPushSource(FeastRefusal):
    """There is no such push source."""

    feast_class = "PushSourceNotFoundException"


class Collision(FeastRefusal):
    """Two features would have one name in the answer."""

    feast_class = "FeatureNameCollisionError"


@dataclass(frozen=True, slots=True)
class Broken:
    """One rule that one field of a request breaks."""

    field: str
    rule: str
    message: str


class InvalidRequestError(ValueError):
    """The request cannot be what the sender meant."""

    def __init__(self, broken: Sequence[Broken]) -> None:
        super().__init__(f"{len(broken)} rules are broken")
        self.broken = tuple(broken)


class NotNowError(RuntimeError):
    """Ask again later; the message says what is missing."""
