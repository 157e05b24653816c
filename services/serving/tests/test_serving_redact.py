"""Fields that a pipeline file redacts are checked like all others, and stand in no record."""

from collections.abc import Callable

import pytest
from serving_cases import FILE, inputs
from serving_edge import Edge, client, direct

from tidemill_contracts.pipeline import PipelineError, PipelineSpec, parse_pipeline
from tidemill_serving.domain.desk import Desk
from tidemill_serving.spool import partition_of

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
    opened.desk = opened.house.desks[spec.name] = Desk(spec, "tidemill", "test", partition_of)
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
