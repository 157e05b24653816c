import json
from pathlib import Path
from typing import Any

from tidemill.difference import difference
from tidemill_contracts.pipeline import PipelineSpec, load_pipeline

FILE = load_pipeline(Path(__file__).parents[3] / "pipelines" / "flight-delay.yaml").model_dump(mode="json")


def spec(**changed: Any) -> PipelineSpec:  # noqa: ANN401 - any JSON value
    """The example with other values at dotted paths, written with two underscores for a dot."""
    document = json.loads(json.dumps(FILE))
    for path, value in changed.items():
        *parents, last = path.split("__")
        inner = document
        for name in parents:
            inner = inner[name.replace("_AT_", "-")]
        inner[last] = value
    return PipelineSpec.model_validate_json(json.dumps(document))


def test_the_same_file_changes_nothing() -> None:
    found = difference(spec(), spec())
    assert not found.changes
    assert (found.fields, found.views) == ({}, {})


def test_a_first_file_is_all_new() -> None:
    found = difference(None, spec())
    assert found.changes
    assert found.before is None
    assert {change for change, _, _ in found.fields.values()} == {"added"}
    assert set(found.views) == set(spec().views)


def test_a_gate_changes_no_view() -> None:
    found = difference(spec(gate__margin=0.5), spec(gate__margin=0.25))
    assert found.fields == {"gate.margin": ("changed", 0.5, 0.25)}
    assert found.views == {}
    assert found.changes


def test_a_window_changes_its_view_only() -> None:
    path = "views__airport_AT_departures__windows"
    before = dict(FILE["views"]["airport-departures"]["windows"])
    found = difference(spec(), spec(**{path: before | {"7d": {"length": "7d", "panes": 1}}}))
    assert list(found.fields) == ["views.airport-departures.windows.7d.panes"]
    assert found.views == {"airport-departures": "changed"}


def test_a_field_of_a_source_changes_every_view_of_it() -> None:
    found = difference(spec(), spec(sources__weather__fields__visib__max=1234.0))
    assert found.views == {"airport-weather": "changed"}


def test_what_is_gone_and_what_is_new() -> None:
    one, two = spec(monitor__segments=["origin"]), spec(monitor__segments=["origin", "carrier"])
    assert difference(one, two).fields == {"monitor.segments.1": ("added", None, "carrier")}
    back = difference(two, one)
    assert back.fields == {"monitor.segments.1": ("removed", "carrier", None)}
    assert back.to_json()["fields"]["monitor.segments.1"]["change"] == "removed"
