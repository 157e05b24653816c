"""What a request may ask beside an answer: to put in features of its own, and to be told why. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tidemill_serving.domain.body import Fault, RefusedError
from tidemill_serving.domain.scoring import Weighted

LARGEST = 3.4e38
"""A model's inputs are float32."""
MOST_FEATURES = 1000
REQUEST = "request."


class Seen(NamedTuple):
    """What a batch scored: names and values [F] of the features, and by whom."""

    features: Sequence[str]
    vector: NDArray[np.float64]
    members: Sequence[Weighted]


class Extra:
    """Goes with an instance through its batch, which notes in it what was scored."""

    __slots__ = ("inline", "seen")

    def __init__(self, inline: Mapping[str, float | None] | None = None) -> None:
        """`inline` are features by name in place of what is known of the entities; None is a null."""
        self.inline: Mapping[str, float | None] = inline or {}
        self.seen: Seen | None = None


class HasExtra(Protocol):
    """An instance."""

    @property
    def extra(self) -> Extra | None: ...


def read_inline(found: object, place: str, faults: list[Fault]) -> Extra | None:
    """The `features` of an instance; what is wrong with them goes to `faults`."""
    if found is None:
        return None
    if not isinstance(found, dict) or len(found) > MOST_FEATURES:
        faults.append(Fault(place, "type", f"must be an object of at most {MOST_FEATURES} features by name"))
        return None
    if any(name.startswith(REQUEST) for name in found):
        faults.append(Fault(place, "request", "a request feature is computed from the inputs: change those"))
    if not all(value is None or _is_number(value) for value in found.values()):
        faults.append(Fault(place, "type", "a feature is a finite number that a float32 can hold, or null"))
    return Extra(found)


def _is_number(value: Any) -> bool:  # noqa: ANN401 - any JSON value
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def check_inline(asks: Sequence[HasExtra], features: Sequence[str]) -> None:
    """Raises RefusedError where a feature was put in that the release does not read."""
    for place, ask in enumerate(asks):
        if ask.extra is not None and not set(features).issuperset(ask.extra.inline):
            fault = Fault(f"instances.{place}.features", "unknown", "not a feature of the release that answers")
            raise RefusedError(422, "the request breaks its declaration", "", (fault,))


def put_in(vectors: NDArray[np.float64], features: Sequence[str], asks: Sequence[HasExtra]) -> None:
    """Write what was put in into the vectors [N, F]; a feature that this release does not read changes nothing."""
    places = {name: place for place, name in enumerate(features)}
    for row, ask in enumerate(asks):
        for name, value in ask.extra.inline.items() if ask.extra is not None else ():
            if name in places:
                vectors[row, places[name]] = math.nan if value is None else float(value)
