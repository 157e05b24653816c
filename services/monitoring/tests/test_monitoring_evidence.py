"""What a decision's span is linked to: rows of its window or its outcomes, the newest otherwise, a bounded number."""

from uuid import UUID

from tidemill_contracts.events import DriftDetected, Outcome, Prediction
from tidemill_monitoring.domain.evidence import LINKS, Evidence
from tidemill_monitoring.domain.join import Label
from tidemill_monitoring.domain.merge import Row


def a_prediction(number: int) -> Row:
    body = Prediction(
        prediction_id=UUID(int=number), pipeline="p", key=str(number), at_us=number, epoch=1, model="a" * 64, version=1,
        score=0.5, vector=[], features="b" * 64, revisions={}, request={},
    )  # fmt: skip
    return Row(number, str(body.prediction_id), ("predictions", 0), number, body)


def a_label(number: int) -> Row:
    event = f"label-{number}"
    return Row(number, event, ("labels", 0), number, Label(str(number), number, 1.0, event, 0, number))


def an_outcome(number: int) -> Outcome:
    return Outcome(
        pipeline="p", seq=number, prediction_id=UUID(int=number), key=str(number), predicted_us=number,
        labelled_us=number, label=1.0, score=0.5, epoch=1, version=1, vector=[], features="b" * 64,
        label_event=f"label-{number}", label_position=(0, number),
    )  # fmt: skip


def a_drift(*, outcomes: tuple[int, int] | None = None, window_us: tuple[int, int] | None = None) -> DriftDetected:
    return DriftDetected(
        pipeline="p", kind="concept", subject="s", at_us=1, effect=1.0, detector="d", outcomes=outcomes,
        window_us=window_us, policy="c" * 64,
    )  # fmt: skip


def some_evidence(count: int, kept: int = 1000) -> Evidence:
    evidence = Evidence(kept)
    for number in range(count):
        evidence.note(str(UUID(int=number)), f"p{number}")
        evidence.note(f"label-{number}", f"l{number}")
        evidence.folded([a_prediction(number), a_label(number)], [an_outcome(number)])
    return evidence


def test_a_drift_of_labelled_rows_rests_on_their_predictions_and_labels() -> None:
    assert some_evidence(10).behind(a_drift(outcomes=(3, 5))) == ["p3", "l3", "p4", "l4"]


def test_a_drift_in_time_rests_on_the_predictions_of_its_window() -> None:
    assert some_evidence(10).behind(a_drift(window_us=(2, 5))) == ["p2", "p3", "p4"]


def test_many_rows_are_represented_from_first_to_last() -> None:
    found = some_evidence(400).behind(a_drift(outcomes=(0, 400)))
    assert len(found) == LINKS
    assert found[:4] == ["p0", "l0", "p25", "l25"]
    assert found[-2:] == ["p375", "l375"]


def test_everything_else_rests_on_the_newest_outcomes() -> None:
    assert some_evidence(40).behind(an_outcome(0))[-2:] == ["p39", "l39"]


def test_only_the_newest_rows_are_remembered() -> None:
    evidence = some_evidence(100, kept=10)
    assert evidence.contexts([a_prediction(99), a_label(0), a_prediction(0)]) == ["p99"]
    assert evidence.behind(a_drift(outcomes=(0, 99))) == [f"{kind}{n}" for n in range(95, 99) for kind in "pl"]
