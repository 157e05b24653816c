"""What is read by compiled code is what the careful reader makes of it, for any bytes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ingestion_cases import FLIGHTS, WEATHER

from tidemill_ingestion.domain.quick import Item, Quick
from tidemill_ingestion.domain.requests import JSON, InvalidEventsError, Parcel, Posted, read_request
from tidemill_ingestion.domain.source import Source

GOOD: dict[str, Any] = {"tail": "N1", "at": "2013-01-01T10:00:00Z", "delay": 1.5}


class Never(Quick):
    """Leaves everything to the careful reader."""

    def __init__(self) -> None:
        pass

    def read(self, body: bytes) -> tuple[list[tuple[Item, bytes]], bool] | None:  # noqa: ARG002 - its base takes it
        return None


def outcome(source: Source, body: bytes) -> Posted | list[tuple[str, str]]:
    try:
        return read_request(source, Parcel(JSON, {"content-type": JSON}, body, 5))
    except InvalidEventsError as error:
        return [(issue.field, issue.rule) for issue in error.issues]


TEXTS = st.one_of(
    st.sampled_from(["N1", "", "N" * 13, 'a":1', "a\\", "\x7f", "é", "a\x00", "\ud800", "a :b", "-0.0", ":-0.0"]),
    st.text(max_size=4),
)
NUMBERS = st.one_of(
    st.sampled_from([0, -0.0, 1, 1.0, 1.5, -100, -101, 5000.5, 2**63, 10**400, 1e-320, True, None, "1"]),
    st.integers(-200, 200), st.floats(allow_nan=True),
)  # fmt: skip
TIMES = st.sampled_from([
    "2013-01-01T10:00:00Z", "2013-01-01T10:00:00.5Z", "2013-01-01T10:00:00+01:00", "2013-02-30T10:00:00Z",
    "2013-01-01T10:00:00", "1899-01-01T10:00:00Z", 7, None, "2013-01-01T10:00:00.123456789Z",
])  # fmt: skip
DATA = st.fixed_dictionaries(
    {},
    optional={
        "tail": TEXTS, "at": TIMES, "delay": NUMBERS, "seats": NUMBERS,
        "carrier": st.sampled_from(["AA", "ZZ", 1, None]),
        "cancelled": st.sampled_from([True, False, 0, None]), "else": st.just(1),
    },
)  # fmt: skip
MOSTLY_GOOD = st.one_of(st.just(GOOD), DATA.map(lambda data: GOOD | data), DATA)
ITEMS = st.fixed_dictionaries(
    {"id": st.one_of(st.sampled_from(["a", "b", "", "x" * 257, "a\n", 1]), TEXTS), "data": MOSTLY_GOOD},
    optional={"time": TIMES, "more": st.just(1)},
)
BODIES = st.one_of(st.lists(ITEMS, max_size=6), ITEMS, st.sampled_from([[], {}, 1, "x", None]))
LAYOUTS = st.sampled_from([(",", ":"), (", ", ": "), (",", " :"), (" , ", "\n:\t"), (",\n", ":")])


def twice(text: str, place: int) -> str:
    """The text with one of its members named again, in front of it."""
    starts = [at for at in range(len(text)) if text.startswith('"delay"', at)]
    if not starts:
        return text
    at = starts[place % len(starts)]
    return f'{text[:at]}"delay":7,{text[at:]}'


@given(BODIES, LAYOUTS, st.booleans(), st.integers(-3, 3))
@example([{"id": "a", "data": GOOD}], (",", " :"), True, 1)
@settings(max_examples=600, deadline=None)
@pytest.mark.parametrize("source", [FLIGHTS, WEATHER], ids=lambda source: source.name)
def test_any_body_means_the_same_to_both(
    source: Source, body: object, layout: tuple[str, str], is_ascii: bool, place: int
) -> None:
    text = json.dumps(body, separators=layout, ensure_ascii=is_ascii)
    raw = (twice(text, place) if place > 0 else text).encode(errors="surrogatepass")
    assert outcome(source, raw) == outcome(replace(source, quick=Never()), raw)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4))
@settings(max_examples=600, deadline=None)
def test_broken_bytes_mean_the_same_to_both(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(json.dumps([{"id": f"e{n}", "data": GOOD | {"delay": n}} for n in range(3)]).encode())
    for at, byte in changes:
        raw[at % len(raw)] = byte
    assert outcome(FLIGHTS, bytes(raw)) == outcome(replace(FLIGHTS, quick=Never()), bytes(raw))


@pytest.mark.parametrize("body", [{"id": "a", "data": GOOD}, [{"id": "a", "data": GOOD}, {"id": "b", "data": GOOD}]])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_what_producers_send_is_read_quickly(body: object, separators: tuple[str, str]) -> None:
    read = FLIGHTS.quick.read(json.dumps(body, separators=separators).encode())
    assert read is not None
    assert read[1] is isinstance(body, dict)


def test_a_name_that_comes_twice_is_never_read_quickly() -> None:
    body = json.dumps([{"id": "a", "data": GOOD}]).replace('"delay":', '"delay": 7, "delay":')
    assert FLIGHTS.quick.read(body.encode()) is None
    assert outcome(FLIGHTS, body.encode()) == [("", "duplicate_key")]
