"""Arrow in and out: the same answers as JSON, bounded, errors that name column and rule."""

import random
import struct
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from serving_cases import inputs, pipeline
from serving_load import begin
from serving_stack import Stack, open_stack

from tidemill.client import AsyncClient, Endpoints
from tidemill_contracts.events import Prediction
from tidemill_runtime.http import HttpProblem
from tidemill_runtime.http.arrow import ARROW, read_columns

pytestmark = pytest.mark.anyio
SPEC = pipeline()
AT = datetime(2013, 1, 1, 10, tzinfo=UTC)


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


def stream(table: pa.Table, **options: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def asks(count: int, **changes: object) -> pa.Table:
    columns: dict[str, Any] = {
        "$id": [f"t-{n}" for n in range(count)], "flight": [f"F-{n}" for n in range(count)],
        "carrier": pa.array(["AA", "UA"] * (count // 2)).dictionary_encode(),
        "distance": pa.array([float(n) for n in range(count)], pa.float32()),
        "seats": pa.array([None if n % 3 else n for n in range(count)], pa.int16()),
        "scheduled": pa.array([AT] * count, pa.timestamp("ms", "America/New_York")),
    }  # fmt: skip
    return pa.table({name: found for name, found in (columns | changes).items() if found is not None})


async def post(stack: Stack, body: bytes, **headers: str) -> httpx.Response:
    return await stack.client.post(
        f"/v1/predict/{SPEC.name}", content=body, headers={"content-type": ARROW, **headers}
    )  # fmt: skip


async def test_a_table_s_answers_are_those_of_json(stack: Stack) -> None:
    await begin(stack)
    answer = await post(stack, stream(asks(1200)))
    assert (answer.status_code, answer.headers["content-type"]) == (200, ARROW), answer.text
    rows = pa.ipc.open_stream(answer.content).read_all().to_pylist()
    assert [row["id"] for row in rows] == [f"t-{n}" for n in range(1200)]
    for number in (0, 1, 999, 1199):
        seats = {"seats": number} if number % 3 == 0 else {}
        asked = inputs(flight=f"F-{number}", carrier=["AA", "UA"][number % 2], distance=float(number)) | seats
        said = (await stack.predict(asked, id=f"t-{number}")).json()
        row = rows[number]
        assert {name: dict(row[name]) if name == "revisions" else row[name] for name in said} == said
    again = await post(stack, stream(asks(1200)), accept="application/json")
    assert [one["prediction_id"] for one in again.json()["predictions"]] == [row["prediction_id"] for row in rows]
    await refusals(stack)
    async with AsyncClient(endpoints=Endpoints({"serving": stack.process.url})) as client:
        large = asks(1000).rename_columns(["own", *asks(2).column_names[1:]])
        found = await client.predict_frame(SPEC.name, large, id="own")
        assert found.column("prediction_id").to_pylist() == [row["prediction_id"] for row in rows[:1000]]
    await stack.until_status(answered=1200, shipped=1200)
    assert sum(envelope.type == Prediction.TYPE for _, envelope in await stack.logged()) == 1200


async def refusals(stack: Stack) -> None:
    """Each names the row or column, and the rule; none leaves a record."""
    wrong = {
        "instances.1.inputs.carrier category": asks(2, carrier=["AA", "XX"]),
        "instances.1101.inputs.distance range": asks(1200, distance=[1.0] * 1101 + [-1.0] * 99),
        "instances.0.inputs.flight required": asks(2, flight=None),
        "instances.0.inputs.other unknown": asks(2, other=[1, 2]),
        "distance finite": asks(2, distance=[1.0, float("nan")]),
        "scheduled time": asks(2, scheduled=pa.array([1, 2], pa.timestamp("us"))),
        "distance type": asks(2, distance=[[1.0], [2.0]]),
        "instances.0.features unknown": asks(2, **{"by-carrier.other": [1.0, 2.0]}),
        "instances.0.id type": asks(2, **{"$id": [1, 2]}),
    }  # fmt: skip
    for said, table in wrong.items():
        answer = await post(stack, stream(table))
        errors = [f"{error['field']} {error['rule']}" for error in answer.json()["errors"]]
        assert (answer.status_code, said in errors) == (422, True), (said, answer.text)
    statuses = {
        400: b"not a stream", 415: stream(asks(2), compression="zstd"), 413: stream(asks(10_002)),
    }  # fmt: skip
    for status, body in statuses.items():
        assert (await post(stack, body)).status_code == status


def test_bytes_of_a_stream_that_were_changed_are_refused_or_read() -> None:
    good, chance = stream(asks(50)), random.Random(7)
    outcomes = set()
    for _ in range(1500):
        bad = bytearray(good)
        for _ in range(chance.choice((1, 1, 4))):
            bad[chance.randrange(len(bad))] = chance.randrange(256)
        cut = bytes(bad[: chance.randrange(len(bad))]) if chance.random() < 0.2 else bytes(bad)
        try:
            outcomes.add(read_columns(cut, 1000).height)
        except HttpProblem as problem:
            outcomes.add(problem.status)
    assert {50, 400} <= outcomes
    assert outcomes <= {0, 50, 400, 413, 415, 422}
    bomb = struct.pack("<Ii", 0xFFFFFFFF, 2**31 - 1) + b"\0" * 64
    with pytest.raises(HttpProblem, match="400"):
        read_columns(bomb, 1000)
