"""What a recomputation keeps of a log: every value as it was, with its type and its bits, and each of them once."""

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tidemill_engine.parity.packed import Bodies, Texts

FIELDS = ("a", "b", "ç")
values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.0, -0.0, 1.0, -1.5]), st.floats(allow_nan=False),
    st.text(max_size=4),
)  # fmt: skip
bodies = st.dictionaries(st.sampled_from([*FIELDS, "other"]), values)


def exact(body: Any) -> str:  # noqa: ANN401 - JSON
    """Tells 1 from 1.0 and from true, and the two zeros."""
    return json.dumps(body, sort_keys=True)


@given(st.lists(bodies, max_size=30))
def test_bodies_are_what_they_were_less_the_fields_that_nobody_reads(given_bodies: list[dict[str, Any]]) -> None:
    found = Bodies(FIELDS)
    for body in given_bodies:
        found.append(body)
    wanted = [exact({name: value for name, value in body.items() if name in FIELDS}) for body in given_bodies]
    assert [exact(body) for body in found] == wanted
    assert [exact(found[at]) for at in range(len(found))] == wanted


def test_equal_values_stand_there_once() -> None:
    found = Bodies(["a"])
    for text in ('{"a": "a longer text"}', '{"a": "a longer text"}', '{"a": 1234.5}', '{"a": 1234.5}', '{"a": -0.0}'):
        found.append(json.loads(text))
    assert found[0]["a"] is found[1]["a"]
    assert found[2]["a"] is found[3]["a"]
    assert math.copysign(1.0, found[4]["a"]) == -1.0


@given(st.lists(st.text(max_size=5), max_size=30), st.lists(st.text(max_size=5), max_size=30))
def test_texts_are_what_they_were(first: list[str], second: list[str]) -> None:
    found = Texts()
    found.extend(first)
    found.extend(second)
    assert list(found) == [*first, *second]
    assert [found[at] for at in range(len(found))] == list(found)
