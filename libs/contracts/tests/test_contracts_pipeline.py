"""The pipeline file: every problem names line, field and rule; digests name what they should and no more."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill_contracts import PipelineError, PipelineSpec, format_duration, parse_duration, parse_pipeline
from tidemill_contracts.events import PipelineApplied
from tidemill_contracts.events.control import KeptFile
from tidemill_contracts.pipeline import PolicySpec, Problem, files_of

FILE = """\
version: 1
name: demo
sources:
  rides:
    key: [ride]
    fields:
      ride: {type: string}
      driver: {type: string}
      delay: {type: float}
entities: {driver: {key: [driver]}}
views:
  rides-by-driver:
    source: rides
    entity: driver
    windows: {1d: {length: 1d, panes: 24}, 1h: {length: 1h}}
    aggregations:
      - {function: count}
      - {function: mean, field: delay, windows: [1h]}
      - {function: last, field: delay, all_time: true}
request:
  key: ride
  fields: {ride: {type: string}, driver: {type: string}}
  features: {long: "1"}
label: {source: rides, join: ride, expression: delay > 15}
"""


def read(*changes: tuple[str, str]) -> PipelineSpec:
    """The file with texts replaced, each of which stands in it."""
    text = FILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return parse_pipeline(text.encode())


def test_features_stand_in_the_order_of_the_file() -> None:
    names = ["count_1d", "count_1h", "delay_mean_1h", "delay_last"]
    wanted = [*(f"rides-by-driver.{name}" for name in names), "request.long"]
    assert read().feature_names() == wanted
    chosen = read(("label:", "model: {features: [request.long, rides-by-driver.count_1h]}\nlabel:"))
    assert chosen.feature_names() == ["rides-by-driver.count_1h", "request.long"]


def test_json_is_read_as_yaml_is() -> None:
    assert parse_pipeline(read().model_dump_json().encode()) == read()
    assert PipelineSpec.model_validate_json(read().model_dump_json()).digest() == read().digest()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("name: demo", "name: Demo", Problem("name", 2, "String should match pattern")),
        ("name: demo", "name: demo\nnme: x", Problem("nme", 3, "Extra inputs are not permitted")),
        ("version: 1", "version: 2", Problem("version", 1, "Input should be 1")),
        ("delay: {type: float}", "delay: {type: floaty}", Problem("sources.rides.fields.delay", 9, "does not match")),
        ("panes: 24", "panes: 0", Problem("views.rides-by-driver.windows.1d.panes", 15, "greater than")),
        ("length: 1h", "length: 1w", Problem("views.rides-by-driver.windows.1h.length", 15, "a duration is")),
        ("function: count", "function: mean", Problem("views.rides-by-driver.aggregations.0", 17, "count takes no")),
        ("windows: [1h]", "windows: [2h]", Problem("views.rides-by-driver", 12, "2h is not a window")),
        ("source: rides\n    entity", "source: taxis\n    entity", Problem("", 1, "taxis is not a source")),
        ("entity: driver", "entity: car", Problem("", 1, "car is not an entity")),
        ("field: delay", "field: driver", Problem("", 1, "mean needs a number, driver is string")),
        (", driver: {type: string}}", "}", Problem("", 1, "driver is missing, the key of rides-by-driver")),
        ("join: ride", "join: id", Problem("", 1, "label.join: id is not a field of rides")),
        ("name: demo", "name: demo\nname: demo", Problem("", 3, "the key name stands twice")),
        ("name: demo", "name: [demo", Problem("", 3, "expected ',' or ']'")),
        ("delay: {type: float}", "delay: {type: float, min: .nan}", Problem("", 1, "Out of range")),
    ],
)
def test_a_problem_names_its_line_field_and_rule(old: str, new: str, problem: Problem) -> None:
    with pytest.raises(PipelineError) as caught:
        read((old, new))
    (found,) = caught.value.problems
    assert (found.field, found.line) == (problem.field, problem.line)
    assert problem.rule in found.rule


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[" * 5000, b"x" * 2**21, b"!!python/object:os.system {}", b"- 1"])
def test_garbage_is_a_problem_too(raw: bytes) -> None:
    with pytest.raises(PipelineError):
        parse_pipeline(raw)


def test_digests_name_what_decides() -> None:
    """The policy's digest follows the gate but no view; a view's version follows its values but not its description."""
    spec = read()
    gated = read(("label:", "gate: {alpha: 0.01}\nlabel:"))
    described = read(("    entity: driver", "    entity: driver\n    description: all rides"))
    counted = read(("panes: 24", "panes: 12"))
    assert len({spec.digest(), gated.digest(), described.digest(), counted.digest()}) == 4
    assert gated.policy_digest() != spec.policy_digest() == counted.policy_digest()
    versions = [found.view_version("rides-by-driver") for found in (spec, gated, described, counted)]
    assert versions[0] == versions[1] == versions[2] != versions[3]


def test_defaults_are_nobodys_own() -> None:
    """A list that one pipeline was given by default is not the next one's."""
    first = PolicySpec()
    first.retrain_on.append("quality")
    assert PolicySpec().retrain_on == ["drift", "volume"]
    assert json.loads(PolicySpec().model_dump_json())["drift_kinds"] == ["concept", "calibration"]


def test_a_file_that_cannot_be_read_hides_no_other() -> None:
    newest, older = read(), read(("panes: 24", "panes: 12"))
    unreadable = "0" * 64
    kept = [
        KeptFile(digest=unreadable, spec={"version": 1, "name": "demo", "of": "another time"}),
        KeptFile(digest=older.digest(), spec=older.model_dump(mode="json")),
    ]
    applied = PipelineApplied(
        pipeline="demo", revision=3, digest=newest.digest(), spec=newest.model_dump(mode="json"), kept=kept
    )
    found = files_of(applied)
    assert found.by_digest == {newest.digest(): newest, older.digest(): older}
    assert (found.newest, found.kept) == (newest, {older.digest(): older})
    assert [unreadable[:12] in problem and "revision 3 of demo" in problem for problem in found.problems] == [True]
    without = files_of(applied.model_copy(update={"spec": {}}))
    assert (without.newest, without.by_digest, len(without.problems)) == (None, {older.digest(): older}, 2)


@given(st.integers(0, 10**9))
def test_durations_survive_their_text(milliseconds: int) -> None:
    us = milliseconds * 1000
    assert parse_duration(format_duration(us)) == us
