"""Sums by segment are bounded, whatever clients send."""

from uuid import UUID

from tidemill_contracts.events import Outcome
from tidemill_monitoring.domain.segments import MOST, Segments

DAY = 86_400_000_000


def outcome(number: int, carrier: str, at: int) -> Outcome:
    values = {
        "event_id": f"{number:032x}", "occurred_at_us": at, "pipeline": "flights", "seq": number, "key": "k",
        "prediction_id": UUID(int=number), "predicted_us": at, "labelled_us": at, "label": 1.0,
        "score": 0.5, "epoch": 1, "version": 1, "vector": [1.0], "features": "0" * 64,
        "segments": {"carrier": carrier, "origin": "JFK"}, "label_event": "x", "label_position": (0, 0),
    }  # fmt: skip
    return Outcome.model_validate({name: value for name, value in values.items() if name in Outcome.model_fields})


def test_ever_new_values_are_counted_together() -> None:
    segments = Segments(DAY)
    for number in range(MOST + 50):
        segments.add(outcome(number, f"C{number}", 5))
    segments.add(outcome(MOST + 50, "C7", 5))
    sums = {segment: answers["n"] for (segment, _), (answers, _) in segments.take_changed().items()}
    assert len(sums) == MOST + 3
    assert sums[""] == sums["origin=JFK"] == MOST + 51
    assert (sums["carrier=C7"], sums["carrier=C999"], sums["carrier: other"]) == (2, 1, 50)
    assert not any(segment == f"carrier=C{MOST}" for segment in sums)


def test_the_next_pane_begins_anew() -> None:
    segments = Segments(DAY)
    for number in range(MOST + 1):
        segments.add(outcome(number, f"C{number}", 5))
    segments.take_changed()
    segments.add(outcome(MOST + 1, "new", DAY + 5))
    assert ("carrier=new", DAY) in segments.take_changed()
