"""Fields that a pipeline file redacts are checked like all others, and stand in no record."""

import json
from collections.abc import Callable

import httpx
import pytest
from serving_cases import FILE, inputs
from serving_edge import Edge, client, direct

from tidemill_contracts.events import Prediction
from tidemill_contracts.pipeline import PipelineError, PipelineSpec, parse_pipeline
from tidemill_serving.domain.answers import recall
from tidemill_serving.domain.desk import Desk
from tidemill_serving.spool import partitions_of

SECRET = "nobody-may-read-this"
pytestmark = pytest.mark.anyio


def redacting(*names: str, more: str = "") -> PipelineSpec:
    """The pipeline of the tests with a passenger's name, and fields that are not logged."""
    text = FILE.replace("    seats:", "    passenger: {type: string, max_length: 64, required: false}\n    seats:")
    text = text.replace("  key: flight\n  time", f"  key: flight\n  redact: [{', '.join(names)}]\n  time")
    return parse_pipeline((text + more).encode())


def edge() -> Edge:
    """An edge whose pipeline redacts the passenger."""
    opened = Edge()
    opened.release()
    before = opened.desk
    spec = redacting("passenger")
    opened.desk = opened.house.desks[spec.name] = Desk(spec, "tidemill", "test", partitions_of)
    opened.desk.champion, opened.desk.is_ready = before.champion, True
    return opened


@pytest.mark.parametrize("open_client", [lambda e: client(e.front), direct], ids=["asgi", "direct"])
@pytest.mark.parametrize("many", [False, True])
async def test_a_redacted_field_is_in_no_record(open_client: Callable[[Edge], object], many: bool) -> None:
    opened = edge()
    one = {"id": "a", "inputs": inputs(passenger=SECRET)}
    async with open_client(opened) as asking:  # type: ignore[attr-defined] # either is an async context manager
        answer = await asking.post(f"/v1/predict/{opened.desk.spec.name}", json={"instances": [one]} if many else one)
        assert answer.status_code == 200, answer.text
        again = await asking.post(f"/v1/predict/{opened.desk.spec.name}", json=one)
        assert again.status_code == 200
        wrong = {"inputs": inputs(passenger="x" * 65)}
        assert (await asking.post(f"/v1/predict/{opened.desk.spec.name}", json=wrong)).status_code == 422
    (entry,) = [entry for entry in opened.log.entries if entry.kind == "prediction"]
    assert SECRET.encode() not in entry.value
    assert b"passenger" not in entry.value
    assert b'"carrier":"AA"' in entry.value
    assert all(SECRET.encode() not in value for _, value in entry.headers)


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["nothing"], "nothing is not a request field"),
        (["flight"], "flight is the key of the request"),
        (["scheduled"], "scheduled is the time of the request"),
        (["distance"], "distance could be read off the feature distance"),
        (["carrier"], "carrier is of an entity's key"),
    ],
)
def test_what_stands_in_the_log_under_another_name_is_not_redacted_in_vain(names: list[str], rule: str) -> None:
    with pytest.raises(PipelineError) as refused:
        redacting(*names)
    assert rule in str(refused.value)


def test_segments_are_not_redacted() -> None:
    with pytest.raises(PipelineError, match=r"passenger is one of monitor\.segments"):
        redacting("passenger", more="monitor: {segments: [passenger]}\n")


def sampling(field: str, share: float) -> PipelineSpec:
    """The pipeline of the tests with a passenger's name, and a field that only a share of the records holds."""
    text = FILE.replace("    seats:", "    passenger: {type: string, max_length: 64, required: false}\n    seats:")
    capture = f"  key: flight\n  capture: {{fields: [{field}], share: {share}}}\n  time"
    return parse_pipeline(text.replace("  key: flight\n  time", capture).encode())


async def ask_400(spec: PipelineSpec, known: list[bytes], name: str = "P") -> tuple[Edge, httpx.Response]:
    """400 requests to a fresh desk that knows of earlier answers what these records say."""
    opened = Edge()
    opened.release()
    desk = Desk(spec, "tidemill", "test", partitions_of)
    desk.champion, desk.is_ready = opened.desk.champion, True
    opened.desk = opened.house.desks[spec.name] = desk
    for value in known:
        desk.recent.put(*recall(value))
    instances = [{"id": f"s-{n}", "inputs": inputs(passenger=f"{name}-{n}")} for n in range(400)]
    async with client(opened.front) as asking:
        return opened, await asking.post(f"/v1/predict/{spec.name}", json={"instances": instances})


def passengers(values: list[bytes]) -> set[str]:
    """Ids of the predictions whose records hold the name."""
    records = [json.loads(value) for value in values]
    assert all(record["request"]["carrier"] == "AA" for record in records)
    return {record["prediction_id"] for record in records if "passenger" in record["request"]}


async def test_sampled_fields_are_in_the_same_share_of_the_records_each_time() -> None:
    spec = sampling("passenger", 0.25)
    opened, _ = await ask_400(spec, [])
    values = [entry.value for entry in opened.log.entries]
    kept, traffic = passengers(values), opened.desk.traffic
    assert 60 < len(kept) < 140
    assert (traffic.captured, traffic.uncaptured) == (len(kept), 400 - len(kept))
    assert all(Prediction.read(value).score > 0 for value in values)
    again, _ = await ask_400(spec, [])
    assert passengers([entry.value for entry in again.log.entries]) == kept


async def test_repeats_are_known_by_records_without_the_sampled_fields() -> None:
    spec = sampling("passenger", 0.25)
    opened, answer = await ask_400(spec, [])
    values = [entry.value for entry in opened.log.entries]
    later, again = await ask_400(spec, values)  # as after a restart: the log is all that is known
    assert again.json() == answer.json()
    assert later.log.entries == []
    _, other = await ask_400(spec, values, name="other")
    assert other.status_code == 422


def test_what_the_pipeline_needs_is_not_sampled() -> None:
    with pytest.raises(PipelineError, match="capture: distance could be read off"):
        sampling("distance", 0.5)
    with pytest.raises(PipelineError, match="share"):
        sampling("passenger", 0.0)
