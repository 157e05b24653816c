"""The merge, the join and the fold: one order, every label once, the same effects however rows are cut and restored."""

import itertools
import random
from collections.abc import Callable, Iterable

import numpy as np
import pytest

from tidemill_contracts.events import Prediction, TrainingCoalesced, TrainingRequested
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_monitoring.domain import state
from tidemill_monitoring.domain.findings import Finding
from tidemill_monitoring.domain.join import Entry, Join, Kind, Label
from tidemill_monitoring.domain.merge import OrderedMerge, Row
from tidemill_monitoring.domain.monitor import Monitor

SECOND = 1_000_000
PREDICTIONS, LABELS = ("predictions", 0), ("labels", 0)
PIPELINE = b"""
version: 1
name: demo
sources:
  clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean}}}
request: {key: user, fields: {user: {type: string}}, features: {a: "1", b: "1"}}
label: {source: clicks, join: user, expression: bought, expiry: 1h}
monitor:
  segments: [user]
  drift: {pane_rows: 50, bias_panes: 5, bias_z: 3.5, reference_rows: 200, population_reference_rows: 200}
policy: {volume: 400, cool_down: 10s}
"""


@pytest.fixture(scope="module")
def spec() -> PipelineSpec:
    """A pipeline of two request features."""
    return parse_pipeline(PIPELINE)


def a_prediction(key: str, at_us: int, score: float = 0.5, vector: tuple[float, ...] = (0.0, 0.0)) -> Prediction:
    """A prediction for a key."""
    return Prediction(
        prediction_id=prediction_id("demo", key), pipeline="demo", key=key, at_us=at_us, epoch=1, model="a" * 64,
        version=1, score=score, vector=list(vector), features="b" * 64, revisions={}, request={"user": "u"},
    )  # fmt: skip


def a_label(key: str, at_us: int, value: float = 1.0, event_id: str | None = None) -> Label:
    """A label for a key."""
    return Label(key, at_us, value, event_id or f"label-{key}", 0, 0)


def stream(n: int, change_at: int) -> list[Row]:
    """Predictions with labels 5 s later; from row `change_at` on the truth is true more often than the scores say."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        vector = rng.normal(size=2)
        score = float(1 / (1 + np.exp(-vector[0])))
        chance = score if i < change_at else min(1.0, score + 0.3)
        at, key = i * SECOND, str(i)
        prediction = a_prediction(key, at, score, tuple(vector.tolist()))
        rows.append(Row(at, str(prediction.prediction_id), PREDICTIONS, i, prediction))
        label = a_label(key, at + 5 * SECOND, float(rng.random() < chance))
        rows.append(Row(label.at_us, label.event_id, LABELS, i, label))
    return sorted(rows)


def waiting_rows(join: Join) -> dict[Kind, Iterable[Entry]]:
    """What the store keeps of a join, oldest first."""
    return {"prediction": join.predictions.values(), "label": join.labels.values(), "closed": join.closed.values()}


def effects(monitor: Monitor, spec: PipelineSpec, rows: list[Row], cuts: list[int], *, restore: bool) -> list[str]:
    """All effects in order; `restore` writes the state down and reads it back at each cut."""
    out = []
    for low, high in itertools.pairwise([0, *cuts, len(rows)]):
        found = monitor.fold(rows[low:high])
        out += [o.model_dump_json() for o in found.outcomes]
        out += [f"{d.event_id} {d.event.model_dump_json()}" for d in found.decisions]
        monitor.segments.take_changed()
        if restore:
            waiting = waiting_rows(monitor.join)
            monitor = state.load(spec, state.dump(monitor))
            for kind, entries in waiting.items():
                for entry in entries:
                    monitor.join.restore(kind, entry)
    return sorted(out)


def test_rows_leave_in_one_order_whatever_order_they_came_in() -> None:
    """Sorted by time, then id, once every input's watermark has passed."""
    rows = stream(50, 50)
    orders = []
    for seed in range(5):
        shuffled = rows[:]
        random.Random(seed).shuffle(shuffled)
        merge, out = OrderedMerge([PREDICTIONS, LABELS]), []
        for row in shuffled:
            merge.push(row)
        for place in (PREDICTIONS, LABELS):
            merge.advance(place, 1000 * SECOND)
            out += merge.release()
        orders.append([row.id for row in out])
    assert orders == [[row.id for row in rows]] * 5


def test_nothing_is_released_before_every_input_has_passed() -> None:
    """An input without a watermark holds everything back."""
    merge = OrderedMerge([PREDICTIONS, LABELS])
    merge.push(Row(1, "a", PREDICTIONS, 0, None))
    merge.advance(PREDICTIONS, 100)
    assert merge.release() == []
    merge.advance(LABELS, 2)
    assert [row.id for row in merge.release()] == ["a"]


def test_a_repeat_is_dropped_while_it_waits_and_after_it_left() -> None:
    """Reading a partition again from the resume offset releases nothing twice."""
    merge = OrderedMerge([PREDICTIONS])
    rows = [Row(t, str(t), PREDICTIONS, t, None) for t in range(10)]
    assert [merge.push(row) for row in rows] == [True] * 10
    merge.advance(PREDICTIONS, 5)
    assert len(merge.release()) == 5
    again = OrderedMerge([PREDICTIONS], released_until_us=merge.released_until_us)
    low, _ = merge.resume(PREDICTIONS, 10)
    assert low == 5
    assert [again.push(row) for row in rows[low - 2 :] + rows[low:]] == [False, False] + [True] * 5 + [False] * 5
    again.advance(PREDICTIONS, 100)
    assert [row.offset for row in again.release()] == [5, 6, 7, 8, 9]


def test_two_detectors_that_alarm_at_one_row_make_two_events(
    spec: PipelineSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow change may cross both bounds with the same pane; each event has an id of its own."""
    monitor = state.fresh(spec)
    both = [Finding("calibration", "label_minus_score", name, 0.2) for name in ("adwin", "range")]
    monkeypatch.setattr(monitor.watch, "on_outcome", lambda outcome: both if outcome.seq == 3 else [])
    decisions = monitor.fold(stream(10, 10)).decisions
    assert len(decisions) == len({decision.event_id for decision in decisions}) == 4
    kinds = [type(decision.event) for decision in decisions]
    assert kinds.count(TrainingRequested) == kinds.count(TrainingCoalesced) == 1


@pytest.mark.parametrize("order", ["prediction first", "label first"])
def test_a_label_joins_once_whichever_comes_first(order: str) -> None:
    """A second prediction or label of the key joins nothing."""
    join = Join(expiry_us=3600 * SECOND)
    calls: list[Callable[[], object]] = [
        lambda: join.on_prediction(a_prediction("k", 1)),
        lambda: join.on_label(a_label("k", 1)),
    ]
    first, second = calls if order == "prediction first" else reversed(calls)
    assert first() is None
    assert second() is not None
    assert join.on_label(a_label("k", 2)) is None
    assert join.on_prediction(a_prediction("k", 2)) is None
    assert (join.counts.received, join.counts.joined, join.counts.duplicate) == (2, 1, 1)


def test_every_label_is_in_one_class() -> None:
    """Joined, pending, unmatched, expired, conflicting and duplicate sum to received."""
    join = Join(expiry_us=10)
    join.on_prediction(a_prediction("joined", 0))
    join.on_prediction(a_prediction("late", 0))
    join.on_label(a_label("joined", 1))
    join.on_label(a_label("joined", 2, 0.0, "other"))
    join.on_label(a_label("joined", 3, 1.0, "same"))
    join.on_label(a_label("nobody", 3))
    join.expire(15)
    join.on_label(a_label("late", 15))
    join.on_label(a_label("waits", 15))
    counts = join.counts
    assert (counts.joined, counts.conflicting, counts.duplicate) == (1, 1, 1)
    assert (counts.unmatched, counts.expired, counts.pending) == (1, 1, 1)
    assert counts.received == 6
    assert counts.predictions_expired == 1


def test_cuts_and_restarts_change_no_effect(spec: PipelineSpec) -> None:
    """The same outcomes, alarms and requests with the same ids, however the rows are cut and the state is restored."""
    rows = stream(3000, 1800)
    whole = effects(state.fresh(spec), spec, rows, [], restore=False)
    cuts = sorted(random.Random(1).sample(range(1, len(rows)), 40))
    assert effects(state.fresh(spec), spec, rows, cuts, restore=True) == whole
    assert any("label_minus_score" in effect for effect in whole)


def test_rows_delivered_twice_have_one_effect(spec: PipelineSpec) -> None:
    """What the merge passes on once is counted once, also when every record was delivered twice."""
    rows = stream(300, 300)
    merge = OrderedMerge([PREDICTIONS, LABELS])
    for row in rows + rows:
        merge.push(row)
    for place in (PREDICTIONS, LABELS):
        merge.advance(place, 10_000 * SECOND)
    monitor = state.fresh(spec)
    outcomes = monitor.fold(merge.release()).outcomes
    assert [outcome.seq for outcome in outcomes] == list(range(300))
    assert merge.dropped == len(rows)


def test_causes_within_the_cool_down_are_coalesced_and_none_is_lost(spec: PipelineSpec) -> None:
    """Every cause becomes a request or the record of why not."""
    monitor = state.fresh(spec)
    decisions = [d.event for d in monitor.fold(stream(1500, 900)).decisions]
    requested = [e for e in decisions if isinstance(e, TrainingRequested)]
    coalesced = [e for e in decisions if isinstance(e, TrainingCoalesced)]
    assert len({e.request_id for e in requested}) == len(requested) == monitor.policy.requested > 0
    assert len({e.cause_id for e in coalesced}) == len(coalesced) == monitor.policy.coalesced
    times = [e.at_us for e in requested]
    assert all(later - earlier >= spec.policy.cool_down for earlier, later in itertools.pairwise(times))
