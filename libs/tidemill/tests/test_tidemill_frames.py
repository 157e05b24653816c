"""Tables in and out of the client, and refusals by their kind."""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.compute
import pytest

from tidemill.client import (
    AsyncClient,
    Client,
    ConflictError,
    Endpoints,
    InvalidError,
    NotFoundError,
    RefusedError,
    TidemillError,
    UnauthorisedError,
)
from tidemill.client.transport import ARROW
from tidemill_testkit.peers import PeerError, peer

EVERYWHERE = Endpoints({"serving": "http://serving.test"})
FRAMES = ("pandas==3.1.1", "polars==2.1.0", "pyarrow==26.0.1", "httpx==0.28.1", "pydantic==2.14.4", "pyyaml==6.0.4")
LIBRARIES = Path(__file__).parents[2]
SEEN = list[Any]()


def serve(request: httpx.Request) -> httpx.Response:
    """Scores a row by its distance."""
    SEEN.append(json.loads(request.content))
    answers = [
        {
            "prediction_id": instance["id"], "score": instance["inputs"].get("distance", 0.0) / 1000, "epoch": 1,
            "version": 2, "model": "0" * 64, "revisions": {},
        }
        for instance in SEEN[-1]["instances"]
    ]  # fmt: skip
    return httpx.Response(200, json={"predictions": answers})


def serve_tables(request: httpx.Request) -> httpx.Response:
    """As `serve`, in Arrow: what large tables travel as."""
    with pa.ipc.open_stream(request.content) as reader:
        rows = reader.read_all()
    SEEN.append(rows)
    count = rows.num_rows
    answer = pa.table({
        "id": rows["$id"], "prediction_id": rows["$id"], "score": pa.compute.divide(rows["distance"], 1000.0),
        "epoch": [1] * count, "version": [2] * count, "model": ["0" * 64] * count, "degraded": [False] * count,
    })  # fmt: skip
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, answer.schema) as writer:
        writer.write_table(answer)
    return httpx.Response(200, content=bytes(sink.getvalue()), headers={"content-type": ARROW})


def client(answer: Callable[[httpx.Request], httpx.Response] = serve) -> Client:
    SEEN.clear()
    return Client(endpoints=EVERYWHERE, transport=httpx.MockTransport(answer))


def table() -> pa.Table:
    at = datetime(2013, 1, 1, 10, tzinfo=UTC)
    return pa.table({
        "key": ["a", "b", None], "flight": ["AA-1", "UA-2", "DL-3"], "distance": [100.0, None, float("nan")],
        "seats": pa.array([1, None, 3], pa.int16()), "when": pa.array([at, at, None], pa.timestamp("us", "UTC")),
    })  # fmt: skip


def test_a_table_is_predicted_row_by_row() -> None:
    with client() as asked:
        found = asked.predict_frame("p", table(), id="key", time="when")
    (body,) = SEEN
    first, second, third = body["instances"]
    assert first == {
        "id": "a", "time": "2013-01-01T10:00:00Z", "inputs": {"flight": "AA-1", "distance": 100.0, "seats": 1},
    }  # fmt: skip
    assert second["inputs"] == {"flight": "UA-2"}
    assert third["inputs"] == {"flight": "DL-3", "seats": 3}
    assert "time" not in third
    assert found.column("prediction_id").to_pylist() == ["a", "b", third["id"]]
    assert found.column("score").to_pylist() == [0.1, 0.0, 0.0]


def test_long_tables_go_as_arrow_in_parts_and_the_awaiting_client_does_the_same() -> None:
    long = pa.table({"distance": [float(row) for row in range(12_000)]})
    with client(serve_tables) as asked:
        found = asked.predict_frame("p", long)
    assert [rows.num_rows for rows in SEEN] == [10_000, 2000]
    assert len({identity for rows in SEEN for identity in rows["$id"].to_pylist()}) == 12_000
    assert found.column("score").to_pylist() == [row / 1000 for row in range(12_000)]

    async def ask() -> pa.Table:
        async with AsyncClient(endpoints=EVERYWHERE, transport=httpx.MockTransport(serve_tables)) as awaiting:
            return await awaiting.predict_frame("p", long)

    assert asyncio.run(ask()).column("score") == found.column("score")


def test_a_service_that_knows_no_arrow_is_asked_in_json() -> None:
    def older(request: httpx.Request) -> httpx.Response:
        if request.headers["content-type"] == ARROW:
            return httpx.Response(415, json={"detail": "the body must be application/json"})
        return serve(request)

    with client(older) as asked:
        found = asked.predict_frame("p", pa.table({"distance": [float(row) for row in range(1200)]}))
    assert [len(body["instances"]) for body in SEEN] == [1000, 200]
    assert found.column("score").to_pylist() == [row / 1000 for row in range(1200)]


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        ([1, 2], "a table"), ({"a": [1]}, "a table"), (pa.table({"a": [[1]]}), "which no request field takes"),
        (pa.table({"a": [float("inf")]}), "infinity"), (pa.table({"a": [datetime(2013, 1, 1)]}), "time zone"),  # noqa: DTZ001
        (pa.table([[1], [2]], ["a", "a"]), "one name"),
    ],
)  # fmt: skip
def test_what_is_no_table_of_fields_is_refused_here(frame: object, why: str) -> None:
    with client() as asked, pytest.raises(TidemillError, match=why):
        asked.predict_frame("p", frame)
    with client() as asked, pytest.raises(TidemillError, match="no column when"):
        asked.predict_frame("p", pa.table({"a": [1]}), time="when")
    assert not SEEN


def test_features_and_explanations_are_asked_for() -> None:
    def explain(request: httpx.Request) -> httpx.Response:
        assert request.url.query == b"explain=true"
        answer: dict[str, Any] = serve(request).json()
        told = {"model": "0" * 64, "version": 2, "weight": 1.0, "base": 0.1, "raw": 0.3, "contributions": {"v.x": 0.2}}
        answer["predictions"] = [one | {"inline": ["v.x"], "explanation": [told]} for one in answer["predictions"]]
        return httpx.Response(200, json=answer)

    with client(explain) as asked:
        found = asked.predict("p", {"distance": 1.0}, features={"v.x": 5.0}, explain=True)
        assert SEEN[0]["instances"][0]["features"] == {"v.x": 5.0}
        assert found.inline == ["v.x"]
        assert found.explanation is not None
        assert found.explanation[0].contributions == {"v.x": 0.2}
        SEEN.clear()
        asked.predict_many("p", [{"inputs": {}}] * 100, explain=True)
        assert [len(body["instances"]) for body in SEEN] == [64, 36]


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, InvalidError), (422, InvalidError), (401, UnauthorisedError), (404, NotFoundError), (409, ConflictError),
     (418, RefusedError)],
)  # fmt: skip
def test_refusals_are_errors_of_their_kind(status: int, kind: type[RefusedError]) -> None:
    errors = [{"field": "inputs.a", "rule": "type", "message": "must be a number"}]

    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, json={"title": "no", "status": status, "errors": errors})

    with client(refuse) as asked, pytest.raises(RefusedError) as refused:
        asked.predict("p", {})
    assert type(refused.value) is kind
    if isinstance(refused.value, InvalidError):
        assert refused.value.errors == errors


@pytest.mark.slow
def test_tables_of_pandas_and_polars_come_back_as_such() -> None:
    try:
        python = peer("frames", *FRAMES)
    except PeerError as error:
        pytest.skip(f"{FRAMES} cannot be installed: {error}")
    script = Path(__file__).with_name("frames_driver.py")
    ours = os.pathsep.join(str(LIBRARIES / name) for name in ("tidemill", "contracts"))
    environment = {**os.environ, "PYTHONPATH": ours}
    done = subprocess.run([str(python), str(script)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["pandas", "polars"]), done.stderr
