"""The same requests to Feast's own server on the same data: what is answered here is answered there."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from feast_parts import F1, SHORT, Edge
from feast_sdk import Sdk, sdk

from tidemill_contracts.base import format_time
from tidemill_features.feast.reading import NO_TIME

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]
AT, LATER = "2015-08-19T16:00:00.500000", "2015-08-19T17:00:00"
Table = dict[str, dict[str, Any]]
_FRACTION = re.compile(r"\.\d+(?=Z)")
FIELDS = dict.fromkeys(SHORT, "float")
VIEWS: Table = {
    "by_flight": {"keys": ["flight"], "fields": FIELDS}, "by_carrier": {"keys": ["carrier"], "fields": FIELDS},
    "by_route": {"keys": ["origin", "dest"], "fields": FIELDS},
}  # fmt: skip


@pytest.fixture(scope="module")
def feast(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sdk]:
    """Its sqlite store takes no `-` in names of views."""
    folder = tmp_path_factory.mktemp("feast")
    what = {
        "folder": str(folder), "online_store": {"type": "sqlite", "path": str(folder / "online.db")},
        "entities": ["flight", "carrier", "origin", "dest"], "views": VIEWS, "services": {"late": list(VIEWS)},
    }  # fmt: skip
    with sdk(what) as opened:
        first = {name: [None if value != value else value] for name, value in zip(SHORT, F1, strict=True)}  # noqa: PLR0124
        write(opened, "by_flight", {"flight": ["F1"], **first}, AT)
        write(opened, "by_flight", {"flight": ["F2"], **alike(2.0)}, LATER)
        write(opened, "by_carrier", {"carrier": ["AA"], **alike(6.0)}, "2015-08-19T16:00:00")
        both = {"origin": ["EWR"], "dest": ["LAX"]}
        write(opened, "by_route", {**both, **alike(7.0)}, "2015-08-19T16:00:00")
        yield opened


def alike(value: float) -> dict[str, list[float]]:
    return {name: [value] for name in SHORT}


def write(feast: Sdk, view: str, df: dict[str, list[Any]], at: str) -> None:
    feast.do("write", view=view, df={**df, "event_timestamp": [at]})


REQUESTS: dict[str, dict[str, Any]] = {
    "one": {"features": ["by_flight:count_1d"], "entities": {"flight": ["F2"]}},
    "all of one": {"features": [f"by_flight:{name}" for name in SHORT], "entities": {"flight": ["F1", "F2"]}},
    "unknown and twice": {"features": ["by_flight:count_1h"], "entities": {"flight": ["F1", "x", "F1"]}},
    "full names": {"features": ["by_flight:count_1h", "by_carrier:count_1h"], "full_feature_names": True,
                   "entities": {"flight": ["F1"], "carrier": ["AA"]}},
    "a key of two": {"features": ["by_route:delay_last"], "entities": {"dest": ["LAX", "SFO"], "origin": ["EWR"] * 2}},
    "a service": {"feature_service": "late", "full_feature_names": True, "entities": {
        "flight": ["F2", "F1"], "carrier": ["AA", "BB"], "origin": ["EWR", "EWR"], "dest": ["LAX", "x"]}},
    "columns of no view": {"features": ["by_flight:count_1h"], "entities": {"flight": ["F1"], "weather": ["fine"]}},
    "latest": {"features": ["by_carrier@latest:count_1h"], "entities": {"carrier": ["AA"]}},
    "metadata": {"features": ["by_carrier:count_1h"], "entities": {"carrier": ["AA"]},
                 "include_feature_view_version_metadata": True},
}  # fmt: skip


def ours(body: dict[str, Any]) -> dict[str, Any]:
    """The request with this pipeline's names of views."""
    refs = [ref.replace("by_", "by-", 1) for ref in body.get("features", [])]
    return {**body, "features": refs} if refs else body


def by_name(body: dict[str, Any]) -> Table:
    """Columns by name; a null is PRESENT to Feast's server and NULL_VALUE here, which is what its protocol calls it."""
    columns = zip(body["metadata"]["feature_names"], body["results"], strict=True)
    found = {}
    for name, column in columns:
        statuses = ["PRESENT" if status == "NULL_VALUE" else status for status in column["statuses"]]
        found[name.replace("by-", "by_", 1)] = column | {"statuses": statuses}
    return found


def seconds(table: Table) -> Table:
    """The times without fractions, which Feast's store drops."""
    return {name: column | {"event_timestamps": [_FRACTION.sub("", time) for time in column["event_timestamps"]]}
            for name, column in table.items()}  # fmt: skip


@pytest.mark.parametrize("name", REQUESTS)
async def test_the_answer_is_that_of_feast_serve(feast: Sdk, name: str) -> None:
    theirs = feast.do("serve", path="/get-online-features", body=REQUESTS[name])
    assert theirs["status"] == 200, theirs
    async with Edge() as edge:
        answer = await edge.ask(ours(REQUESTS[name]))
    assert seconds(by_name(answer.json())) == seconds(by_name(theirs["body"]))
    entities = [column for column in answer.json()["metadata"]["feature_names"] if column in REQUESTS[name]["entities"]]
    assert theirs["body"]["metadata"]["feature_names"][: len(entities)] == entities
    views = [{"name": view["name"].replace("by_", "by-")} for view in
             theirs["body"]["metadata"].get("feature_view_metadata", [])]  # fmt: skip
    assert answer.json()["metadata"].get("feature_view_metadata", []) == views


def test_the_times_of_this_test_are_those_of_the_records() -> None:
    assert format_time(1_440_000_000_500_000) == f"{AT}Z"
    assert format_time(0) == NO_TIME


REFUSED: dict[str, dict[str, Any]] = {
    "unknown view": {"features": ["nothing:count_1h"], "entities": {"flight": ["F1"]}},
    "unknown service": {"feature_service": "nothing", "entities": {"flight": ["F1"]}},
    "collision": {"features": ["by_flight:count_1h", "by_carrier:count_1h"],
                  "entities": {"flight": ["F1"], "carrier": ["AA"]}},
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
async def test_what_feast_refuses_is_refused_in_its_form(feast: Sdk, name: str) -> None:
    theirs = feast.do("serve", path="/get-online-features", body=REFUSED[name])
    async with Edge() as edge:
        answer = await edge.ask(ours(REFUSED[name]))
    told, there = json.loads(answer.json()), json.loads(theirs["body"])
    assert told.keys() == there.keys()
    assert (told["module"], told["class"]) == (there["module"], there["class"])
    assert 400 <= answer.status_code < 500
