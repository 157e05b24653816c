"""Answers of one pipeline, from vectors and releases in memory."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest
from serving_cases import HOUR_US, PARTITIONS, T0_US, inputs, linear, picky, pipeline, released

from tidemill_contracts.base import parse_time
from tidemill_contracts.envelope import read_envelope
from tidemill_contracts.events import FeatureVector, Prediction, Timer, Watermark
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_serving.domain.answers import Recent, Record, recall
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Drafts, Loaded, Query
from tidemill_serving.domain.frames import apart
from tidemill_serving.domain.plan import Plan, UnservableError
from tidemill_serving.domain.replica import WATERMARK_KEY, Replica
from tidemill_serving.domain.scoring import Weighted, score
from tidemill_serving.onnx import Scorer
from tidemill_serving.spool import partitions_of

NOW_US = T0_US + 5 * HOUR_US
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
SPEC = pipeline()
REQUEST_US = parse_time("2013-01-01T10:00:00Z")


class Scripted:
    """A model with the same answer for every row, or a failure."""

    def __init__(self, answer: float | None) -> None:
        self.answer = answer

    def scores(self, rows: np.ndarray[Any, np.dtype[np.float32]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        if self.answer is None:
            raise ValueError("scripted failure")
        return np.full(len(rows), self.answer)


def replica(spec: PipelineSpec = SPEC, *, mark_us: int | None = None) -> Replica:
    made = Replica()
    version = spec.view_version("by-carrier")
    made.want(("by-carrier", version), width=2, partitions=PARTITIONS)
    vector = FeatureVector(
        view="by-carrier", version=version, entity="AA", at_us=T0_US, revision=3, values=[1.5, None], positions={"0": 9}
    )
    made.apply(("by-carrier", version), 0, b"AA", vector.model_dump_json().encode())
    for partition in range(PARTITIONS) if mark_us is not None else ():
        mark = Watermark(view="by-carrier", partition=partition, watermark_us=mark_us or 0)
        made.apply(("by-carrier", version), partition, WATERMARK_KEY, mark.model_dump_json().encode())
    return made


def loaded(*answers: float | None, shadow: float | None = 0.25, epoch: int = 1, spec: PipelineSpec = SPEC) -> Loaded:
    members = [Weighted(f"m{i}", f"{i}" * 64, epoch, 1.0, Scripted(answer)) for i, answer in enumerate(answers)]
    shadows = [Weighted("baseline", "f" * 64, 1, 1.0, Scripted(shadow))]
    return Loaded(released(spec, epoch, "0" * 64), spec, Plan(spec, spec.feature_names()), members, shadows)


def desk(active: Loaded | None = None, previous: Loaded | None = None, *, spec: PipelineSpec = SPEC) -> Desk:
    made = Desk(spec, "tidemill", "tidemill/serving/0", partitions_of, recent=Recent(10))
    if active is not None:
        made.champion.restore(active, previous)
    return made


def ask(at: Desk, *bodies: dict[str, Any]) -> list[Query]:
    asks, _ = at.reader.read({"instances": list(bodies)})
    return [Query(found, str(derived_id("test", found.id or i)), TRACE) for i, found in enumerate(asks)]


def answer(at: Desk, queries: list[Query], state: Replica | None = None, *, degraded: bool = False) -> Drafts:
    drafts = at.answer(state or replica(), queries, now_us=NOW_US, degraded=degraded)
    for identity, remembered in drafts.remembered:
        at.recent.put(identity, remembered)
    return drafts


def body(result: object) -> dict[str, Any]:
    assert isinstance(result, bytes)
    found: dict[str, Any] = json.loads(result)
    return found


def logged(drafts: Drafts, index: int = 0) -> Prediction:
    return Prediction.model_validate_json(apart(drafts.entries)[index].value)


def test_the_log_record_is_the_contracts_prediction_and_makes_the_same_answer() -> None:
    at = desk(loaded(0.75))
    queries = ask(at, {"id": "a", "inputs": inputs()})
    drafts = answer(at, queries)
    record = logged(drafts)
    assert record.vector == [1.5, None, 100.0, 10.0]
    assert record.features == SPEC.vector_digest(SPEC.feature_names())
    assert (record.score, record.shadows, record.members) == (0.75, {"baseline": 0.25}, {})
    assert record.request == inputs()
    assert record.trace_id == "a" * 32
    assert recall(apart(drafts.entries)[0].value)[1].answer == drafts.results[0]
    envelope = read_envelope(apart(drafts.entries)[0].headers, apart(drafts.entries)[0].value)
    assert (envelope.type, envelope.time_us, envelope.traceparent) == (Prediction.TYPE, record.at_us, TRACE)
    assert body(drafts.results[0])["revisions"] == {"by-carrier": 3}
    several = {"sequence", "mix", "arm", "share", "fallback", "above", "inline", "mark"}
    assert msgspec.json.decode(apart(drafts.entries)[0].value).keys() == set(Prediction.model_fields) - several
    assert set(Record.__struct_fields__) == set(Prediction.model_fields)


def test_time_is_the_requests_but_never_below_watermark_or_declared_progress() -> None:
    at = desk(loaded(0.5))
    early = ask(at, {"inputs": inputs(scheduled="2013-01-01T00:00:00Z")})
    assert logged(answer(at, early)).at_us == parse_time("2013-01-01T00:00:00Z")
    assert logged(answer(at, early, replica(mark_us=REQUEST_US + 7))).at_us == REQUEST_US + 7
    at.floor_us = REQUEST_US + 9
    assert logged(answer(at, early, replica(mark_us=REQUEST_US + 7))).at_us == REQUEST_US + 9


def test_the_same_id_has_one_answer_and_one_record() -> None:
    at = desk(loaded(0.5))
    twice = ask(at, {"id": "a", "inputs": inputs()}, {"id": "a", "inputs": inputs()})
    drafts = answer(at, twice)
    assert len(apart(drafts.entries)) == 1
    assert drafts.results[0] == drafts.results[1]
    at.champion.active = loaded(0.9, epoch=2)
    again = answer(at, twice[:1])
    assert (again.results, again.entries) == (drafts.results[:1], [])


def test_the_same_id_with_other_inputs_is_refused() -> None:
    at = desk(loaded(0.5))
    first, second = ask(at, {"id": "a", "inputs": inputs()}, {"id": "a", "inputs": inputs(distance=5)})
    together = answer(at, [first, second])
    later = answer(at, [second])
    for refused in (together.results[1], later.results[0]):
        assert isinstance(refused, RefusedError)
        assert refused.status == 422


def test_an_unknown_entity_is_a_row_of_nulls_or_a_refusal() -> None:
    at = desk(loaded(0.5))
    drafts = answer(at, ask(at, {"inputs": inputs(carrier="DL")}))
    assert logged(drafts).vector == [None, None, 100.0, 10.0]
    assert logged(drafts).defaulted == ["by-carrier"]
    assert logged(drafts).revisions["by-carrier"].revision == 0

    strict = pipeline(missing="refuse")
    at = desk(loaded(0.5, spec=strict), spec=strict)
    drafts = answer(at, ask(at, {"inputs": inputs(carrier="DL")}, {"inputs": inputs()}), replica(strict))
    refused, answered = drafts.results
    assert isinstance(refused, RefusedError)
    assert refused.status == 422
    assert body(answered)["score"] == 0.5
    assert len(apart(drafts.entries)) == 1


@pytest.mark.parametrize("shadow", [None, float("nan"), float("inf"), 7.0])
def test_a_failing_shadow_changes_no_answer(shadow: float | None) -> None:
    at = desk(loaded(0.5, shadow=shadow))
    drafts = answer(at, ask(at, {"inputs": inputs()}))
    assert body(drafts.results[0])["score"] == 0.5
    assert not body(drafts.results[0])["degraded"]
    assert logged(drafts).shadows == {}


@pytest.mark.parametrize("bad", [None, float("nan"), -0.1, 1.5])
def test_a_champion_without_an_answer_falls_back_to_the_release_before(bad: float | None) -> None:
    at = desk(loaded(bad, epoch=2), loaded(0.25, epoch=1))
    drafts = answer(at, ask(at, {"inputs": inputs()}))
    found = body(drafts.results[0])
    assert (found["score"], found["epoch"], found["degraded"]) == (0.25, 1, True)
    assert logged(drafts).epoch == 1

    alone = answer(desk(loaded(bad)), ask(at, {"inputs": inputs()}))
    assert isinstance(alone.results[0], RefusedError)
    assert alone.results[0].status == 503
    assert not alone.entries


def test_only_the_rows_without_an_answer_fall_back() -> None:
    names = SPEC.feature_names()
    active = loaded(epoch=2)
    active.members = [Weighted("m", "1" * 64, 2, 1.0, Scorer(picky(len(names), 1.5), len(names)))]
    at = desk(active, loaded(0.25))
    drafts = answer(at, ask(at, {"inputs": inputs()}, {"inputs": inputs(carrier="DL")}))
    assert [body(result)["epoch"] for result in drafts.results] == [1, 2]


def test_members_are_mixed_by_weight_and_a_silent_one_does_not_count() -> None:
    members = [Weighted("a", "a", 1, 3.0, Scripted(0.2)), Weighted("b", "b", 1, 1.0, Scripted(0.6))]
    assert score(members, [], np.zeros((2, 3))).mixed == pytest.approx([0.3, 0.3])
    silent = [*members, Weighted("c", "c", 1, 9.0, Scripted(None))]
    assert score(silent, [], np.zeros((1, 3))).mixed == pytest.approx([0.3])
    assert np.isnan(score([silent[2]] * 2, [], np.zeros((1, 3))).mixed).all()


def test_a_model_is_fed_the_vector_in_float32() -> None:
    names = SPEC.feature_names()
    scorer = Scorer(linear(names), len(names))
    active = loaded(epoch=1)
    active.members = [Weighted("m", "1" * 64, 1, 1.0, scorer)]
    drafts = answer(desk(active), ask(desk(active), {"inputs": inputs(distance=0.1)}))
    vector = np.array([np.nan if value is None else value for value in logged(drafts).vector])
    assert vector[2] == 0.1
    assert body(drafts.results[0])["score"] == scorer.scores(vector[None].astype(np.float32))[0]


def test_features_are_taken_by_name_in_the_releases_order() -> None:
    names = list(reversed(SPEC.feature_names()))
    plan = Plan(SPEC, [names[0], names[-1]])
    (found,), _ = desk().reader.read({"inputs": inputs()})
    lines = plan.lines(plan.tables(replica()), [found, found], None)
    assert lines.vectors.tolist() == [[10.0, 1.5]] * 2
    assert plan.digest == SPEC.vector_digest([names[0], names[-1]])
    with pytest.raises(UnservableError):
        Plan(SPEC, ["by-carrier.nothing"])


def test_progress_goes_to_every_partition_of_the_log() -> None:
    entries = desk().timers(T0_US)
    assert [entry.partition for entry in entries] == list(range(PARTITIONS))
    assert {Timer.read(entry.value).time_us for entry in entries} == {T0_US}
    assert len({dict(entry.headers)["ce_id"] for entry in entries}) == PARTITIONS


def test_without_a_release_there_is_no_answer() -> None:
    with pytest.raises(RefusedError) as caught:
        answer(desk(), ask(desk(), {"inputs": inputs()}))
    assert caught.value.status == 409


def test_a_record_that_kafka_would_refuse_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill_serving.domain.batch.LARGEST_RECORD", 100)
    drafts = answer(desk(loaded(0.5)), ask(desk(), {"inputs": inputs()}))
    assert isinstance(drafts.results[0], RefusedError)
    assert not drafts.entries


def test_recent_answers_are_bounded() -> None:
    at = desk(loaded(0.5))
    answer(at, ask(at, *[{"id": str(i), "inputs": inputs()} for i in range(25)]))
    assert len(at.recent) == 10
