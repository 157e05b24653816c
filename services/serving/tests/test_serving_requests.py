"""What a request may hold: every wrong one is refused with the field and the rule, never with its value."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_cases import inputs, pipeline

from tidemill_contracts.base import parse_time
from tidemill_serving.domain.body import MalformedError, RefusedError, read_json
from tidemill_serving.domain.requests import MAXIMUM_INSTANCES, Reader, read_header_id

READER = Reader(pipeline().request)
KEYS = st.text(alphabet='ab:"\\{é', max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | KEYS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        (b"", "json"),
        (b"{", "json"),
        (b"{} {}", "json"),
        (b"\xff", "json"),
        (b"\xef\xbb\xbf{}", "json"),
        (b'{"a":NaN}', "json"),
        (b'{"a":Infinity}', "json"),
        (b'{"a":1e400}', "json"),
        (b'{"a":' + b"1" * 5000 + b"}", "json"),
        (b'{"a":"\\ud800"}', "json"),
        (b"[" * 100_000, "depth"),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, "depth"),
        (b'{"a":1,"a":1}', "duplicate_key"),
        (b'{"a":":","b":1,"b":2}', "duplicate_key"),
        (b'{"a":"\\u003a","b":1,"b":2}', "duplicate_key"),
        (b'{"a":1,"\\u0061":2}', "duplicate_key"),
        (b'[{"x":{"a":1,"a":[]}}]', "duplicate_key"),
    ],
)
def test_bodies_with_more_than_one_meaning_are_refused(raw: bytes, rule: str) -> None:
    with pytest.raises(MalformedError) as caught:
        read_json(raw)
    assert caught.value.status == 400
    assert [fault.rule for fault in caught.value.faults] == [rule]


@given(VALUES, st.booleans())
def test_good_json_is_read_as_it_is(value: object, ascii_only: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.dictionaries(KEYS, VALUES, min_size=1, max_size=3), VALUES)
def test_a_repeated_key_is_always_found(members: dict[str, Any], other: object) -> None:
    parts = [f"{json.dumps(key, ensure_ascii=False)}:{json.dumps(value)}" for key, value in members.items()]
    again = f"{json.dumps(next(iter(members)), ensure_ascii=False)}:{json.dumps(other)}"
    with pytest.raises(MalformedError):
        read_json("{{{}}}".format(",".join([*parts, again])).encode())


BAD_INPUTS: list[tuple[object, str, str]] = [
    (None, "inputs", "type"),
    ([], "inputs", "type"),
    ({}, "inputs.flight", "required"),
    (inputs(flight=1), "inputs.flight", "type"),
    (inputs(flight="x" * 33), "inputs.flight", "max_length"),
    (inputs(carrier="ZZ"), "inputs.carrier", "category"),
    (inputs(carrier=["AA"]), "inputs.carrier", "type"),
    (inputs(distance="1"), "inputs.distance", "type"),
    (inputs(distance=True), "inputs.distance", "type"),
    (inputs(distance=-1), "inputs.distance", "range"),
    (inputs(distance=10_001.0), "inputs.distance", "range"),
    (inputs(distance=10**30), "inputs.distance", "range"),
    (inputs(seats=1.0), "inputs.seats", "type"),
    (inputs(seats=2**63), "inputs.seats", "range"),
    (inputs(cargo=1), "inputs.cargo", "type"),
    (inputs(scheduled="2013-01-01T10:00:00"), "inputs.scheduled", "time"),
    (inputs(scheduled="yesterday"), "inputs.scheduled", "time"),
    (inputs(scheduled=1), "inputs.scheduled", "type"),
    (inputs(gate="A1"), "inputs.gate", "unknown"),
    (inputs() | {"<script>": 1}, "inputs", "unknown"),
    (inputs(flight=""), "inputs.flight", "required"),
]


@pytest.mark.parametrize(("bad", "field", "rule"), BAD_INPUTS)
def test_bad_inputs_are_refused_by_field_and_rule(bad: object, field: str, rule: str) -> None:
    with pytest.raises(RefusedError) as caught:
        READER.read({"inputs": bad})
    assert caught.value.status == 422
    assert (field, rule) in [(fault.field, fault.rule) for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("document", "field", "rule"),
    [
        (None, "", "type"),
        ([], "", "type"),
        ({"inputs": inputs(), "model": 1}, "", "unknown"),
        ({"inputs": inputs(), "id": ""}, "id", "type"),
        ({"inputs": inputs(), "id": 7}, "id", "type"),
        ({"inputs": inputs(), "id": "x" * 257}, "id", "type"),
        ({"inputs": inputs(), "time": 1}, "time", "time"),
        ({"inputs": inputs(), "time": "2013-01-01"}, "time", "time"),
        ({"inputs": inputs(), "time": "0001-01-01T00:00:00+23:00"}, "time", "time"),
        ({"instances": []}, "instances", "length"),
        ({"instances": {}}, "instances", "length"),
        ({"instances": [{"inputs": inputs()}] * (MAXIMUM_INSTANCES + 1)}, "instances", "length"),
        ({"instances": [{"inputs": inputs()}], "id": "a"}, "", "unknown"),
        ({"instances": [{"inputs": inputs()}, 5]}, "instances.1", "type"),
        ({"instances": [{"inputs": inputs()}, {"inputs": {}}]}, "instances.1.inputs.flight", "required"),
    ],
)
def test_bad_envelopes_are_refused_by_field_and_rule(document: object, field: str, rule: str) -> None:
    with pytest.raises(RefusedError) as caught:
        READER.read(document)
    assert caught.value.status == 422
    assert (field, rule) in [(fault.field, fault.rule) for fault in caught.value.faults]


def test_every_fault_of_a_request_is_named_at_once() -> None:
    with pytest.raises(RefusedError) as caught:
        READER.read({"inputs": inputs(carrier="ZZ", distance=-1, scheduled="?")})
    assert [fault.field for fault in caught.value.faults] == ["inputs.carrier", "inputs.distance", "inputs.scheduled"]


def test_a_good_request_has_its_declared_time_and_key() -> None:
    (ask,), is_list = READER.read({"inputs": inputs(seats=None), "time": "2020-01-01T00:00:00Z"})
    assert not is_list
    assert (ask.key, ask.time_us) == ("AA-1", parse_time("2013-01-01T10:00:00Z"))
    assert ask.typed["seats"] is None


def test_an_id_may_stand_in_the_header_but_not_contradict_the_body() -> None:
    (ask,), _ = READER.read({"inputs": inputs(), "id": "a"}, read_header_id('"a"'))
    assert ask.id == "a"
    assert read_header_id("a-b") == "a-b"
    for document, header in (({"inputs": inputs(), "id": "b"}, "a"), ({"instances": [{"inputs": inputs()}]}, "a")):
        with pytest.raises(RefusedError):
            READER.read(document, header)
    for bad in ("", '"', '"a', "a b", "é", "x" * 257):
        with pytest.raises(RefusedError):
            read_header_id(bad)
