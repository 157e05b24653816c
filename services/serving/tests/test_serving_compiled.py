"""The compiled readers take less than the careful ones, never more, and what they take means the same."""

import json
import random
from typing import Any

import numpy as np
import pytest
from serving_cases import inputs, pipeline

from tidemill_serving.domain.bodies import KNOWN_FORMS, LONGEST_FORM, Bodies
from tidemill_serving.domain.body import RefusedError, read_json
from tidemill_serving.domain.numbers import Places, read_arrays
from tidemill_serving.domain.requests import Reader

READER = Reader(pipeline().request)
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, -0.0, 0.1, 1e-300, 9999, 10_000, 10_000.5, 10_001, 2**53 + 1, 2**63 - 1, 2**63,
    -(2**63), 10**30, 1e300, "", "AA", "a:b", "x" * 32, "x" * 33, "é", "\\", '"', "2013-01-01T10:00:00Z",
    "2013-01-01T10:00:00.1234567Z", "2013-01-01 10:00:00+01:00", "2013-01-01T10:00:00", "0001-01-01T00:00:00+23:00",
    "9999-12-31T23:59:59-23:00", [], {}, ["AA"], {"a": 1},
]  # fmt: skip


def carefully(raw: bytes) -> Any:  # noqa: ANN401 - an ask, or None
    try:
        asks, is_list = READER.read(read_json(raw))
    except RefusedError:
        return None
    return None if is_list else asks[0]


def mutations(count: int) -> list[bytes]:
    made = random.Random(7)
    out = []
    for _ in range(count):
        document: dict[str, Any] = {"inputs": inputs(seats=made.choice([None, 3]), cargo=made.choice([None, True]))}
        for _ in range(made.randrange(3)):
            name = made.choice([*document["inputs"], "seats", "cargo", "gate"])
            document["inputs"][name] = made.choice(VALUES)
        if made.random() < 0.3:
            document[made.choice(["id", "time", "model"])] = made.choice(VALUES)
        if made.random() < 0.2:
            document["inputs"].pop(made.choice(list(document["inputs"])))
        raw = json.dumps(document, ensure_ascii=made.random() < 0.5, indent=made.choice([None, None, 2])).encode()
        if made.random() < 0.2:
            place = made.randrange(len(raw))
            raw = (
                raw[:place] + made.choice([b"", b":", b'"', b"\x00", b"\xff", b"1", b"NaN", b',"id":"a"']) + raw[place:]
            )
        out.append(raw)
    return out


def test_what_is_taken_quickly_is_what_would_be_taken_carefully() -> None:
    taken = 0
    for raw in mutations(4000):
        quick = READER.quickly(raw)
        if quick is None:
            continue
        taken += 1
        careful = carefully(raw)
        assert careful is not None, raw
        assert repr(quick._replace(raw={}, typed={})) == repr(careful._replace(raw={}, typed={})), raw
        for mine, theirs in ((quick.raw, careful.raw), (quick.typed, careful.typed)):
            assert {name: repr(value) for name, value in mine.items()} == {k: repr(v) for k, v in theirs.items()}, raw
    assert taken > 400


def test_a_good_request_is_taken_quickly() -> None:
    assert READER.quickly(json.dumps({"id": "a:b", "inputs": inputs(distance=5)}).encode()) is not None


@pytest.mark.parametrize("raw", [
    b'{"inputs":{"flight":"a","flight":"b","carrier":"AA","distance":1,"scheduled":"2013-01-01T10:00:00Z"}}',
    b'{"inputs":{"flight":"a","carrier":"AA","distance":1,"scheduled":"2013-01-01T10:00:00Z"},"id":null}',
    b'{"inputs":{"flight":"a","carrier":"AA","distance":NaN,"scheduled":"2013-01-01T10:00:00Z"}}',
])  # fmt: skip
def test_what_is_unusual_is_left_to_the_careful_reader(raw: bytes) -> None:
    assert READER.quickly(raw) is None


def tensor(**changes: Any) -> bytes:  # noqa: ANN401 - whatever stands in a body
    found = {"name": "features", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, -3, 1e30]} | changes
    return json.dumps({"inputs": [found]}).encode()


def read_rows(raw: bytes) -> tuple[list[list[float]], Any, str | None] | None:
    """The rows of a body as the model takes them and as they are logged, and its id."""
    unread = Bodies().find(raw)
    if unread is None:
        return None
    values = np.empty((unread.height, unread.width), np.float32)
    (text,) = read_arrays(Places(raw, [unread.start], [unread.height]), values).texts
    return None if text is None else (values.tolist(), json.loads(b"[%b]" % bytes(text)), unread.id)


def test_rows_in_their_usual_form_are_taken_quickly() -> None:
    rows = [[1.0, 2.5], [-3.0, 1e30]]
    assert read_rows(tensor()) == (np.array(rows, np.float32).tolist(), rows, None)
    wanted = b'{"id":"a:b","outputs":[{"name":"probability"}],' + tensor()[1:]
    assert read_rows(wanted) == (np.array(rows, np.float32).tolist(), rows, "a:b")


def test_what_stands_around_the_numbers_is_read_once_for_all_who_send_it_and_bounded() -> None:
    bodies = Bodies()
    for number in range(KNOWN_FORMS + 9):
        raw = tensor(shape=[1, 4]).replace(b'"shape"', b" " * number + b'"shape"')[:LONGEST_FORM]
        assert bodies.find(raw) == bodies.find(raw)
    assert bodies.find(tensor()) is not None
    assert bodies.find(tensor(shape=[4, 1])) is not None


@pytest.mark.parametrize("raw", [
    b"", b"{", b"[]", b"\xff", b"[" * 100_000, tensor(name="x"), tensor(shape=[2]), tensor(shape=[3, 2]),
    tensor(shape=[0, 2]), tensor(shape=[-1, 2]), tensor(shape=[2.5, 2]), tensor(datatype="INT64"),
    tensor(data=[1, True, 2, 3]), tensor(data=[1, None, 2, 3]), tensor(data=[1, "2", 3, 4]), tensor(data=[1, 2, 3]),
    tensor(data=[1, 2, 3, 4, 5]), tensor(data=[1, [2], 3, 4]), tensor(data=[]), tensor().replace(b"]", b"", 1)[:-3],
    tensor().replace(b"}]", b"}"), tensor(name='"data":[1,2,3,4]'), tensor().replace(b'"data"', b'"data'),
    tensor(data=[True, 1, 2, 3]), tensor(data=["1"] * 4), tensor(data=[None] * 4), tensor(data=[[1, 2], [3, 4]]),
    tensor(parameters={}), tensor(extra=1), tensor() + b"1", tensor().replace(b"2.5", b"1e999"),
    tensor().replace(b'"name"', b'"name": "features", "name"', 1), tensor().replace(b"2.5", b"NaN"),
    b'{"inputs": [], "inputs": [' + tensor()[12:], b'{"outputs":[{"name":"x"}],' + tensor()[1:],
    b'{"id":1,' + tensor()[1:],
])  # fmt: skip
def test_other_rows_are_left_to_the_careful_reader(raw: bytes) -> None:
    assert read_rows(raw) is None
