import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import tidemill
from tidemill.client import (
    AsyncClient,
    Client,
    DeadlineError,
    Endpoints,
    QuotaError,
    RefusedError,
    TidemillError,
    UnreachableError,
)
from tidemill.client.calls import BATCH
from tidemill.client.transport import SERVICES
from tidemill_contracts.pipeline import load_pipeline

PIPELINE = Path(__file__).parents[3] / "pipelines" / "flight-delay.yaml"
EVERYWHERE = Endpoints({name: f"http://{name}.test" for name in SERVICES})
Answer = httpx.Response | Exception
DIGEST = "0" * 64


class Wire:
    """Answers requests from a list, in order, and remembers them."""

    def __init__(self, *answers: Answer | Callable[[httpx.Request], httpx.Response]) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else answer(request)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(request.content) for request in self.requests]

    def client(self, *, patience_s: float = 30.0) -> Client:
        return Client(endpoints=EVERYWHERE, transport=httpx.MockTransport(self), patience_s=patience_s)


def json_answer(body: object, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=body)


def accept(request: httpx.Request) -> httpx.Response:
    events = json.loads(request.content)
    places = [{"id": e["id"], "topic": "raw", "partition": 0, "offset": i} for i, e in enumerate(events)]
    return json_answer({"accepted": places}, 202)


def prediction(**changed: object) -> dict[str, Any]:
    known = {
        "prediction_id": "p", "score": 0.25, "epoch": 2, "version": 3, "model": DIGEST, "revisions": {"view": 7},
        "features_at": None, "defaulted": [], "degraded": False, "trace_id": None,
    }  # fmt: skip
    return known | changed


def predictions(request: httpx.Request) -> httpx.Response:
    count = len(json.loads(request.content)["instances"])
    return json_answer({"predictions": [prediction(score=i / BATCH) for i in range(count)]})


def released(**changed: object) -> dict[str, Any]:
    known = {
        "pipeline": "p", "epoch": 2, "members": [{"name": "m", "model": DIGEST, "version": 3}], "views": {},
        "features": [], "spec": DIGEST, "policy": DIGEST, "at_us": 5, "reason": {"kind": "hand"},
        "released_at": "a newer field",
    }  # fmt: skip
    return known | changed


def test_what_fails_on_the_way_is_sent_again_with_the_same_ids() -> None:
    wire = Wire(httpx.ConnectError("away"), json_answer({"title": "starting"}, 503), accept)
    with wire.client() as client:
        places = client.send_events("arrivals", [{"data": {"a": 1}}, {"id": "mine", "data": {"a": 2}}])
        assert client.transport.retries == 2
    first, second, third = wire.bodies
    assert first == second == third
    assert [each.id for each in places] == [first[0]["id"], "mine"]


async def test_both_clients_do_the_same() -> None:
    wires = [Wire(httpx.ReadError("cut"), predictions) for _ in range(2)]
    with wires[0].client() as client:
        here = client.predict("p", {"a": 1}, id="x", time=0)
    transport = httpx.MockTransport(wires[1])
    async with AsyncClient(endpoints=EVERYWHERE, transport=transport) as awaiting:
        there = await awaiting.predict("p", {"a": 1}, id="x", time=0)
    assert here == there
    assert wires[0].bodies == wires[1].bodies
    assert wires[0].bodies[0] == {"instances": [{"id": "x", "time": "1970-01-01T00:00:00Z", "inputs": {"a": 1}}]}


def test_large_batches_are_cut_and_come_back_in_order() -> None:
    wire = Wire(predictions, predictions)
    with wire.client() as client:
        answers = client.predict_many("p", [{"inputs": {}}] * (BATCH + 1))
    assert [len(body["instances"]) for body in wire.bodies] == [BATCH, 1]
    assert len({instance["id"] for body in wire.bodies for instance in body["instances"]}) == BATCH + 1
    assert answers[999].score == 0.999


def test_a_refusal_carries_the_problem() -> None:
    problem = {"status": 422, "title": "Unprocessable", "detail": "a field is not valid",
               "errors": [{"field": "inputs.a", "rule": "type", "message": "must be a number"}]}  # fmt: skip
    wire = Wire(json_answer(problem, 422))
    with wire.client() as client, pytest.raises(RefusedError, match=r"inputs\.a: must be a number") as refused:
        client.predict("p", {"a": "x"})
    assert refused.value.status == 422
    assert refused.value.problem == problem
    assert len(wire.requests) == 1


def test_a_refusal_without_a_problem_is_still_one() -> None:
    wire = Wire(httpx.Response(404, text="<html>"))
    with wire.client() as client, pytest.raises(RefusedError, match="404 Not Found"):
        client.champion("p")


def test_patience_ends() -> None:
    wire = Wire(httpx.ConnectError("away"))
    with wire.client(patience_s=0.0) as client, pytest.raises(UnreachableError, match="serving did not answer within"):
        client.pipelines()


def test_a_deadline_bounds_all_attempts_and_serving_is_told_what_is_left() -> None:
    late = json_answer({"detail": "the answer cannot be given before the deadline"}, 504)
    wire = Wire(late, httpx.ReadError("cut"), predictions)
    with wire.client() as client:
        client.predict("p", {"a": 1}, deadline_ms=20_000)
    left = [int(request.headers["tidemill-deadline-ms"]) for request in wire.requests]
    assert 20_000 >= left[0] > left[1] > left[2] > 0
    assert wire.bodies[0] == wire.bodies[1] == wire.bodies[2]  # the same id, so one answer and one record
    wire = Wire(late)
    with wire.client() as client, pytest.raises(DeadlineError, match="within 1 ms"):
        client.predict("p", {"a": 1}, deadline_ms=1)
    assert len(wire.requests) == 1
    wire = Wire(predictions)
    with wire.client() as client:
        client.predict("p", {"a": 1})
    assert "tidemill-deadline-ms" not in wire.requests[0].headers


def test_a_used_up_quota_is_waited_for_while_patience_lasts() -> None:
    soon = httpx.Response(429, json={"detail": "used up"}, headers={"retry-after": "0"})
    wire = Wire(soon, predictions)
    with wire.client() as client:
        client.predict("p", {"a": 1})
    assert len(wire.requests) == 2
    wire = Wire(httpx.Response(429, json={"detail": "used up"}, headers={"retry-after": "60"}))
    with wire.client(patience_s=5.0) as client, pytest.raises(QuotaError, match="429 used up"):
        client.predict("p", {"a": 1})
    assert len(wire.requests) == 1


def test_a_champion_is_asked_for_at_an_event_time() -> None:
    wire = Wire(json_answer(released()))
    with wire.client() as client:
        found = client.champion("p", at=1_000_000)
    assert wire.requests[0].url.params["at"] == "1970-01-01T00:00:01Z"
    assert (found.epoch, found.members[0].version) == (2, 3)


def test_a_decision_by_hand_takes_the_event_time_of_the_stream() -> None:
    wire = Wire(json_answer({"pipelines": {"p": {"watermark_us": 2_000_000}}}), json_answer(released()))
    with wire.client() as client:
        assert client.promote("p", 3, expected_epoch=1).epoch == 2
    sent = json.loads(wire.requests[1].content)
    assert sent == {"version": 3, "at": "1970-01-01T00:00:02Z", "detail": "", "expected_epoch": 1}


def test_without_an_event_time_a_decision_is_not_sent() -> None:
    wire = Wire(json_answer({"pipelines": {"p": {"watermark_us": None}}}))
    with wire.client() as client, pytest.raises(TidemillError, match="give the event time"):
        client.rollback("p")


def test_the_first_training_is_a_cold_start_from_where_the_sources_stand() -> None:
    spec = load_pipeline(PIPELINE)
    standing = {"pipeline": spec.name, "revision": 1, "digest": DIGEST, "frozen": False, "epoch": 0,
                "spec": spec.model_dump(mode="json")}  # fmt: skip
    wire = Wire(
        json_answer({"pipelines": {spec.name: {"epoch": None, "watermark_us": 9}}}), json_answer(standing),
        json_answer({"title": "no release yet"}, 404),
        json_answer({"sources": {"arrivals": {"positions": {"0": 5}}, "others": {"positions": {"0": 1}}}}),
        json_answer({"request_id": "r"}, 202),
    )  # fmt: skip
    with wire.client() as client:
        assert client.train(spec.name) == "r"
    sent = json.loads(wire.requests[-1].content)
    assert sent["cause"] == "cold_start"
    assert sent["positions"] == {"events.arrivals": {"0": 5}}


@pytest.mark.parametrize("changed", [False, True])
def test_a_later_training_learns_from_what_was_labelled_unless_views_have_changed(changed: bool) -> None:
    spec = load_pipeline(PIPELINE)
    views = {view: spec.view_version(view) for view in spec.views} | ({"airport-weather": "0" * 16} if changed else {})
    standing = {"pipeline": "p", "revision": 1, "digest": DIGEST, "frozen": False, "epoch": 1,
                "spec": spec.model_dump(mode="json")}  # fmt: skip
    wire = Wire(
        json_answer({"pipelines": {"p": {"epoch": 1, "watermark_us": 9}}}), json_answer(standing),
        json_answer(released(views=views)),
        json_answer({"sources": {}, "pipelines": {"p": {"watermark_us": 3_000_000, "outcomes": 77}}}),
        json_answer({"request_id": "r"}, 202),
    )  # fmt: skip
    with wire.client() as client:
        client.train("p", detail="why")
    sent = json.loads(wire.requests[-1].content)
    assert sent["detail"] == "why"
    assert sent["cause"] == ("cold_start" if changed else "hand")
    assert changed or sent == {"detail": "why", "cause": "hand", "at": "1970-01-01T00:00:03Z", "outcomes_to": 77}


def test_ids_with_slashes_and_names_with_spaces_stay_one_part_of_the_path() -> None:
    fate = {"id": "a/b", "outcome": "applied", "topic": "t", "partition": 0, "seq": 1, "time": "", "conflicts": 0,
            "raw": {"partition": 0, "offset": 4}}  # fmt: skip
    wire = Wire(json_answer(fate), json_answer({"items": []}))
    with wire.client() as client:
        assert client.event("s", "a/b").raw.offset == 4
        client.metrics("a b/c")
    assert [request.url.raw_path for request in wire.requests] == [
        b"/v1/events/s/a/b",
        b"/v1/pipelines/a%20b%2Fc/metrics",
    ]


def test_an_api_key_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_API_KEY", "secret")
    wire = Wire(json_answer({"ok": True, "links": 1, "head": "h", "broken_at": None, "reason": ""}))
    with wire.client() as client:
        assert client.audit_verify().ok
    assert wire.requests[0].headers["authorization"] == "Bearer secret"


def test_the_environment_names_services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(TidemillError, match="no running stack found"):
        Client(tmp_path)
    monkeypatch.setenv("TIDEMILL_URL_SERVING", "http://serving.test/")
    with Client(tmp_path) as client:
        assert client.transport.endpoints.url("serving") == "http://serving.test"
        with pytest.raises(TidemillError, match="TIDEMILL_URL_REGISTRY"):
            client.releases("p")
        with pytest.raises(TidemillError, match="TIDEMILL_KAFKA"):
            client.transport.endpoints.bootstrap()


def test_addresses_that_a_stopped_stack_left_behind_are_not_used(tmp_path: Path) -> None:
    left = {"kafka": "k", "services": {"serving": {"url": "http://127.0.0.1:1"}}}
    (tmp_path / "endpoints.json").write_text(json.dumps(left))
    with pytest.raises(TidemillError, match="tidemill up"):
        Client(tmp_path)


def test_names_are_exported_lazily() -> None:
    assert tidemill.Client is Client
    assert "Where" not in dir(tidemill)
    with pytest.raises(AttributeError, match="Nonsense"):
        tidemill.Nonsense  # noqa: B018 - that it fails is the point
