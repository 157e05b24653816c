"""What of tensors is logged: those of a share of the requests, none, or the first rows; and the record tells."""

import json
from typing import Any

import httpx
import pytest
from serving_cases import FILE
from serving_edge import NAMES, Edge, client, direct

from tidemill_contracts.envelope import read_envelope
from tidemill_contracts.events import Inference
from tidemill_contracts.pipeline import PipelineError, parse_pipeline
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.tensors import VALUES_PER_RECORD
from tidemill_serving.spool import partitions_of

pytestmark = pytest.mark.anyio
WIDTH = len(NAMES)
MARK = 0.1328125  # which has as few bits as an FP32


def edge(text: str = "") -> Edge:
    """An edge whose pipeline file says so under `inference`."""
    opened = Edge()
    opened.release()
    spec = parse_pipeline((FILE + (f"inference: {text}\n" if text else "")).encode())
    desk = Desk(spec, "tidemill", "test", partitions_of)
    desk.champion, desk.is_ready = opened.desk.champion, True
    opened.desk = opened.house.desks[spec.name] = desk
    return opened


async def infer(asking: httpx.AsyncClient, rows: int = 1, *, name: str | None = None, kind: str = "FP32") -> None:
    data = [[MARK + row] * WIDTH for row in range(rows)]
    tensor = {"name": "features", "shape": [rows, WIDTH], "datatype": kind, "data": data}
    body = {"inputs": [tensor]} if name is None else {"id": name, "inputs": [tensor]}
    answer = await asking.post("/v2/models/flights/infer", json=body)
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["outputs"][0]["data"]) == rows


def logged(opened: Edge) -> list[Inference]:
    found = [Inference.read(entry.value) for entry in opened.log.entries if entry.kind == "inference"]
    assert len({read_envelope(entry.headers, entry.value).id for entry in opened.log.entries}) == len(found)
    return found


def told(record: Inference) -> dict[str, Any]:
    (found,) = record.inputs
    return found.model_dump()


async def ask_200(opened: Edge) -> dict[str | None, Inference]:
    async with client(opened.front) as asking:
        for number in range(200):
            await infer(asking, name=f"r-{number}")
    return {record.request_id: record for record in logged(opened)}


async def test_the_same_requests_keep_their_values_each_time() -> None:
    text = "{capture: {inputs: [features], share: 0.25}}"
    opened = edge(text)
    records = await ask_200(opened)
    kept = {name for name, record in records.items() if record.rows}
    assert 25 < len(kept) < 80
    for name, record in records.items():
        values = "all" if name in kept else "sampled"
        assert told(record) == {"name": "features", "datatype": "FP32", "shape": [1, WIDTH], "values": values}
        assert record.rows == ([[MARK] * WIDTH] if name in kept else [])
        assert len(record.scores) == 1
    assert (opened.desk.traffic.captured, opened.desk.traffic.uncaptured) == (len(kept), 200 - len(kept))
    again = await ask_200(edge(text))
    assert {name for name, record in again.items() if record.rows} == kept


@pytest.mark.parametrize("kind", ["FP32", "FP64"])
async def test_values_of_a_redacted_input_are_in_no_record(kind: str) -> None:
    opened = edge("{redact: [features]}")
    async with direct(opened) as asking:
        for _ in range(3):  # the careful reader, then as a form that is known
            await infer(asking, 2, kind=kind)
    for record in logged(opened):
        assert told(record) == {"name": "features", "datatype": kind, "shape": [2, WIDTH], "values": "redacted"}
        assert (record.rows, len(record.scores)) == ([], 2)
    assert all(str(MARK)[2:8].encode() not in entry.value for entry in opened.log.entries)


async def test_rows_above_the_bound_are_cut_and_the_record_says_so() -> None:
    opened = edge(f"{{most_values: {2 * WIDTH + 1}}}")
    async with client(opened.front) as asking:
        for rows in (2, 3):
            await infer(asking, rows)
    whole, cut = logged(opened)
    assert (told(whole)["values"], len(whole.rows), len(whole.scores)) == ("all", 2, 2)
    assert (told(cut)["values"], cut.rows, len(cut.scores)) == ("cut", [[MARK + row] * WIDTH for row in (0, 1)], 3)
    assert told(cut)["shape"] == [3, WIDTH]


async def test_many_rows_are_in_several_records_or_left_out_in_one() -> None:
    rows = VALUES_PER_RECORD // WIDTH + 5
    kept, left = edge("{most_values: 1000000}"), edge("{redact: [features]}")
    for opened in (kept, left):
        async with client(opened.front) as asking:
            await infer(asking, rows)
    parts = logged(kept)
    assert [(part.part, part.parts, told(part)["values"]) for part in parts] == [(0, 2, "all"), (1, 2, "all")]
    assert sum(len(part.rows) for part in parts) == sum(len(part.scores) for part in parts) == rows
    (one,) = logged(left)
    assert (one.part, one.parts, one.rows, len(one.scores)) == (0, 1, [], rows)


async def test_a_file_that_says_nothing_keeps_everything() -> None:
    opened = edge()
    async with client(opened.front) as asking:
        await infer(asking, 2)
    (record,) = logged(opened)
    assert (record.inputs, len(record.rows)) == ([], 2)
    assert "inputs" not in json.loads(opened.log.entries[-1].value)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{redact: [carrier]}", "redact: carrier is no input of the model"),
        ("{capture: {inputs: [carrier], share: 0.5}}", "capture: carrier is no input of the model"),
        ("{redact: [features], capture: {inputs: [features], share: 0.5}}", "capture: features is redacted"),
        ("{capture: {inputs: [features], share: 0}}", "share"),
        ("{most_values: -1}", "most_values"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_rule(text: str, rule: str) -> None:
    with pytest.raises(PipelineError, match=rule):
        edge(text)
