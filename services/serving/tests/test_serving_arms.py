"""Who answers which key: mixed members, a challenger's share, who stands in for whom, and shadows after the answers."""

import asyncio
import gc
import json
import threading
from typing import Any

import numpy as np
import pytest
from serving_cases import inputs, linear, released
from serving_parts import Log
from serving_stack import until
from test_serving_desk import NOW_US, SPEC, Scripted, answer, ask, body, desk, loaded, logged, replica

from tidemill_contracts.events import Challenger, Released, Shadowed
from tidemill_engine.rollout import bound, mix_one, point
from tidemill_serving.domain.answers import recall
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Loaded
from tidemill_serving.domain.frames import apart
from tidemill_serving.domain.house import House
from tidemill_serving.domain.loaded import Aside, Rival
from tidemill_serving.domain.plan import Plan
from tidemill_serving.domain.scoring import LateError, Weighted
from tidemill_serving.handlers.batching import Batcher
from tidemill_serving.handlers.shadowing import MOST_ROWS, Shadower
from tidemill_serving.onnx import Scorer
from tidemill_serving.onnx.bounded import Bounded

NAMES = list(SPEC.feature_names())
FLIGHTS = [f"F-{number}" for number in range(60)]


class Late:
    """A model that is never in time."""

    def scores(self, rows: Any) -> Any:  # noqa: ANN401 - not looked at
        raise LateError(str(len(rows)))


def rival(model: object, *, share: float = 0.3, by: str = "flight", features: list[str] | None = None) -> Rival:
    """A challenger of version 9."""
    named = Challenger(name="challenger", model="9" * 64, version=9, share=share, salt="s", by=by)
    plan = Plan(SPEC, features or NAMES)
    return Rival(named, SPEC, plan, Weighted("challenger", "9" * 64, 9, 1.0, model))  # type: ignore[arg-type]


def mixed(*parts: tuple[float, float | None], **changes: object) -> Loaded:
    """A release of members (weight, answer), of the versions 1, 2, ..."""
    made = loaded(0.5, shadow=None)
    made.released = made.released.model_copy(update=changes)
    made.members = [
        Weighted(f"m{number}", f"{number}" * 64, number, weight, Scripted(own))
        for number, (weight, own) in enumerate(parts, 1)
    ]
    return made


def test_the_answer_and_the_record_name_all_members_and_give_the_score_again_bit_for_bit() -> None:
    parts = [(0.1, 0.7312345678901234), (0.3, 0.1), (0.6, 0.2999999999999)]
    drafts = answer(desk(mixed(*parts, sequence=4)), ask(desk(), {"id": "a", "inputs": inputs()}))
    found, record = body(drafts.results[0]), logged(drafts)
    assert [(part["version"], part["weight"], part["score"]) for part in found["members"]] == [
        (number, *part) for number, part in enumerate(parts, 1)
    ]
    again = mix_one([part.score for part in record.mix], [part.weight for part in record.mix])
    assert again == found["score"] == record.score
    assert (found["version"], record.sequence, record.fallback) == (3, 4, None)
    assert recall(apart(drafts.entries)[0].value)[1].answer == drafts.results[0]


@pytest.mark.parametrize(("bad", "why"), [(None, "error"), (float("nan"), "invalid"), (7.0, "invalid")])
def test_a_member_without_a_score_takes_no_part_and_is_told(bad: float | None, why: str) -> None:
    at = desk(mixed((0.5, 0.2), (0.5, bad)))
    drafts = answer(at, ask(at, {"inputs": inputs()}))
    found = body(drafts.results[0])
    assert (found["score"], found["fallback"], found["members"][1]["score"]) == (0.2, why, None)
    assert logged(drafts).fallback == why
    assert at.traffic.fallbacks == {("champion", why): 1}


def queries_of(at: Any) -> list[Any]:  # noqa: ANN401 - a desk
    return ask(at, *[{"inputs": inputs(flight=flight)} for flight in FLIGHTS])


@pytest.mark.parametrize("share", [0.01, 0.3, 1.0])
def test_keys_below_the_share_are_the_challengers_whatever_the_batch(share: float) -> None:
    active = loaded(0.5)
    active.rival = rival(Scripted(0.9), share=share)
    at = desk(active)
    theirs = {flight for flight in FLIGHTS if point("s", flight) < bound(share)}
    together = answer(at, queries_of(at))
    alone = [answer(at, [query]).results[0] for query in queries_of(at)]
    for results in (together.results, alone):
        for flight, result in zip(FLIGHTS, results, strict=True):
            found = body(result)
            mine = flight in theirs
            assert (found.get("arm") == "challenger") == mine
            assert (found["score"], found["version"]) == ((0.9, 9) if mine else (0.5, 1))
            assert found.get("share", 1.0) == pytest.approx(share if mine else 1 - share)
    counted = {place: count for place, count in at.traffic.answers.items() if count}
    expected = {("challenger", 9): 2 * len(theirs), ("champion", 1): 2 * (len(FLIGHTS) - len(theirs))}
    assert counted == {place: count for place, count in expected.items() if count}
    records = {record.key: record for record in (logged(together, i) for i in range(len(FLIGHTS)))}
    assert {key for key, record in records.items() if record.arm == "challenger"} == theirs


def test_keys_may_be_divided_by_another_field_of_the_request() -> None:
    active = loaded(0.5)
    active.rival = rival(Scripted(0.9), by="carrier", share=0.5)
    at = desk(active)
    asked = ask(at, *[{"inputs": inputs(flight=f, carrier=c)} for f in FLIGHTS[:5] for c in ("AA", "UA", "DL")])
    arms: dict[str, set[str]] = {}
    for index, query in enumerate(asked):
        arms.setdefault(query.ask.raw["carrier"], set()).add(logged(answer(at, asked), index).arm)
    assert all(len(found) == 1 for found in arms.values())


@pytest.mark.parametrize(
    ("model", "why"),
    [(Scripted(None), "error"), (Late(), "late"), (Scripted(float("nan")), "invalid"), (Scripted(1.5), "invalid")],
)
def test_the_champion_answers_for_a_challenger_that_fails(model: object, why: str) -> None:
    active = loaded(0.5)
    active.rival = rival(model, share=1.0)
    at = desk(active, loaded(0.25, epoch=3))
    drafts = answer(at, ask(at, {"id": "a", "inputs": inputs()}))
    found, record = body(drafts.results[0]), logged(drafts)
    assert (found["score"], found["version"], found["epoch"]) == (0.5, 1, 1)
    assert (found["arm"], found["fallback"], found["degraded"]) == ("challenger", why, False)
    assert (record.arm, record.fallback, record.share, record.version) == ("challenger", why, 1.0, 1)
    assert at.traffic.fallbacks == {("challenger", why): 1}
    assert recall(apart(drafts.entries)[0].value)[1].answer == drafts.results[0]
    at.champion.active = loaded(None, epoch=4)
    at.champion.active.rival = rival(model, share=1.0)
    both = body(answer(at, ask(at, {"inputs": inputs(flight="B")})).results[0])
    assert (both["score"], both["epoch"], both["degraded"], both["arm"]) == (0.25, 3, True, "challenger")


def test_a_challenger_reads_its_own_features() -> None:
    names, active = list(reversed(NAMES)), loaded(0.5)
    active.rival = rival(Scorer(linear(names), len(names)), share=1.0, features=names)
    at = desk(active)
    record = logged(answer(at, ask(at, {"inputs": inputs()})))
    assert record.vector == [10.0, 100.0, None, 1.5]
    assert record.features == Plan(SPEC, names).digest


def test_thresholds_are_the_releases_own() -> None:
    at = desk(mixed((1.0, 0.5), thresholds={"warn": 0.5, "block": 0.9, "log": 0.0}))
    found = body(answer(at, ask(at, {"inputs": inputs()})).results[0])
    assert found["above"] == ["log", "warn"]
    at.champion.active = loaded(0.5)
    assert "above" not in body(answer(at, ask(at, {"inputs": inputs(flight="B")})).results[0])


class Slow:
    """A model that answers when it is let go, or stopped."""

    def __init__(self) -> None:
        self.go, self.stopped = threading.Event(), threading.Event()

    def scores(self, rows: Any) -> Any:  # noqa: ANN401 - an array
        self.go.wait(30)
        return np.full(len(rows), 0.9)

    def stop(self) -> None:
        self.stopped.set()


def test_a_bounded_model_is_late_is_stopped_and_answers_again() -> None:
    slow = Slow()
    bounded = Bounded(slow, 0.01)
    rows = np.zeros((2, 3), np.float32)
    with pytest.raises(LateError):
        bounded.scores(rows)
    assert slow.stopped.is_set()
    with pytest.raises(LateError, match="before"):
        bounded.scores(rows)  # at once: the thread is still busy
    slow.go.set()
    patient = Bounded(slow, 30)
    assert patient.scores(rows).tolist() == [0.9, 0.9]
    threads = threading.active_count()
    del patient
    gc.collect()
    assert threading.active_count() <= threads


def test_a_run_of_onnx_can_be_stopped_and_the_next_one_answers() -> None:
    model = Scorer(linear(NAMES), len(NAMES)).stoppable()
    rows = np.zeros((2, len(NAMES)), np.float32)
    expected = model.scores(rows).tolist()
    model.stop()  # of the run before: the next is its own
    assert Bounded(model, 30).scores(rows).tolist() == expected


@pytest.mark.anyio
async def test_shadows_are_scored_after_the_answers_and_their_failures_are_counted() -> None:
    house, log = House(), Log()
    batcher = Batcher(house, log, appended=lambda: None, swapped=lambda _: None, now_us=lambda: NOW_US)
    shadower = Shadower(house, batcher.append)
    batcher.beside = shadower.put
    slow = Slow()
    active = loaded(0.5)
    other = list(reversed(NAMES))
    active.asides = [
        Aside(Weighted("good", "a" * 64, 2, 1.0, Scorer(linear(other), len(other))), Plan(SPEC, other)),
        Aside(Weighted("slow", "b" * 64, 3, 1.0, slow), None),
        Aside(Weighted("bad", "c" * 64, 4, 1.0, Scripted(None)), None),
    ]
    at = desk(active)
    house.desks[SPEC.name], house.replica = at, replica()
    work = asyncio.ensure_future(shadower.run())
    results = await asyncio.wait_for(batcher.answer(at, queries_of(at)), 30)
    assert [body(result)["score"] for result in results] == [0.5] * len(FLIGHTS)
    assert log.kinds == ["prediction"] * len(FLIGHTS)
    assert not slow.go.is_set()
    slow.go.set()
    await until(lambda: log.kinds.count("shadow") == len(FLIGHTS), "the shadows' records")
    assert at.traffic.shadows == {
        ("good", "scored"): len(FLIGHTS), ("slow", "scored"): len(FLIGHTS), ("bad", "error"): len(FLIGHTS),
    }  # fmt: skip
    record = Shadowed.read(log.entries[-1].value)
    assert record.scores.keys() == {"good", "slow"}
    assert (record.failed, record.key, record.models["good"]) == ({"bad": "error"}, FLIGHTS[-1], "a" * 64)
    assert str(record.prediction_id) == json.loads(log.entries[len(FLIGHTS) - 1].value)["prediction_id"]
    assert log.entries[-1].partition == log.entries[len(FLIGHTS) - 1].partition
    work.cancel()


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    active = loaded(0.5)
    active.asides = [Aside(Weighted("late", "a" * 64, 2, 1.0, Scripted(0.1)), None)]
    at = desk(active)
    shadower = Shadower(House(), lambda _entries: True)
    beside = answer(at, queries_of(at)).beside
    assert beside is not None
    for _ in range(MOST_ROWS // len(FLIGHTS) + 2):
        shadower.put(at, beside)
    assert at.traffic.shadows["late", "dropped"] == 2 * len(FLIGHTS)


def test_an_event_of_an_earlier_version_still_reads() -> None:
    event = json.loads(released(SPEC, 2, "0" * 64, shadow="1" * 64).model_dump_json())
    assert "challenger" not in event
    assert event["shadows"][0].keys() == {"name", "model", "version", "weight"}
    assert Released.read(json.dumps(event).encode()).challenger is None
    refused = answer(desk(loaded(None)), ask(desk(), {"inputs": inputs()})).results[0]
    assert isinstance(refused, RefusedError)
