"""One entity, one text."""

import math

import pytest

from tidemill_contracts.pipeline import BooleanField, FieldSpec, NumberField, StringField, TimestampField
from tidemill_engine.entities import EntityKey, RowReader, event_mark, key_text

FIELDS: dict[str, FieldSpec] = {
    "origin": StringField(type="string"),
    "dest": StringField(type="string"),
    "flight": NumberField(type="integer"),
    "at": TimestampField(type="timestamp"),
}


@pytest.mark.parametrize(
    ("value", "text"),
    [("EWR", "EWR"), (5, "5"), (5.0, "5"), (-0.0, "0"), (0.1, "0.1"), (1e20, "1" + 20 * "0"), (True, "true")],
)
def test_a_part_has_one_text(value: str | float, text: str) -> None:
    assert key_text(value) == text


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1], {"a": 1}])
def test_what_cannot_be_a_key_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"part of a key|JSON compliant"):
        key_text(value)


def test_one_field_is_its_text_and_several_are_a_json_array() -> None:
    event = {"origin": "EWR", "dest": 'a","b', "flight": 12}
    assert EntityKey(["origin"], FIELDS)(event) == "EWR"
    assert EntityKey(["flight"], FIELDS)(event) == "12"
    assert EntityKey(["origin", "dest"], FIELDS)(event) == '["EWR","a\\",\\"b"]'


def test_two_spellings_of_an_instant_are_one_entity() -> None:
    key = EntityKey(["at"], FIELDS)
    assert key({"at": "2013-01-01T01:00:00+01:00"}) == key({"at": "2013-01-01T00:00:00Z"}) == "2013-01-01T00:00:00Z"


@pytest.mark.parametrize("event", [{}, {"origin": None}, {"origin": ""}])
def test_an_event_without_the_field_belongs_to_no_entity(event: dict[str, object]) -> None:
    assert EntityKey(["origin"], FIELDS)(event) is None


def test_a_missing_part_of_several_belongs_to_no_entity() -> None:
    assert EntityKey(["origin", "dest"], FIELDS)({"origin": "EWR"}) is None


def test_a_field_that_nobody_declared_is_an_error() -> None:
    with pytest.raises(KeyError):
        EntityKey(["nowhere"], FIELDS)


def test_a_row_holds_numbers_and_null_is_nan() -> None:
    fields: dict[str, FieldSpec] = FIELDS | {
        "late": BooleanField(type="boolean"),
        "delay": NumberField(type="float", required=False),
    }
    read = RowReader(["delay", "flight", "late", "at"], fields)
    row = read({"flight": 7, "late": True, "at": "1970-01-01T00:00:01Z", "more": "ignored"})
    assert math.isnan(row[0])
    assert row[1:] == [7.0, 1.0, 1e6]


def test_a_filtered_column_is_null_where_its_filter_is_not_true() -> None:
    fields: dict[str, FieldSpec] = FIELDS | {"delay": NumberField(type="float", required=False)}
    read = RowReader(["delay", "delay?delay > 15", "?delay > 15", "flight?flight == 7"], fields)
    assert read({"flight": 7, "delay": 20.0}) == [20.0, 20.0, 1.0, 7.0]
    row = read({"flight": 8, "delay": 15.0})
    assert row[0] == 15.0
    assert all(math.isnan(value) for value in row[1:])
    assert math.isnan(read({"flight": 7})[2])  # null is not true
    with pytest.raises(ValueError, match="delay is not of its declared type"):
        read({"flight": 8, "delay": "long"})


@pytest.mark.parametrize(
    "event", [{"flight": "7"}, {"flight": True}, {"flight": [7]}, {"at": 7}, {"at": "yesterday"}, {"flight": 10**400}]
)
def test_a_value_of_another_type_is_named(event: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(event))} is not of its declared type"):
        RowReader(["flight", "at"], FIELDS)(event)


def test_the_mark_of_an_id_never_changes() -> None:
    assert event_mark("flight-1") == 0x8EBA76C05CA8879C
    assert event_mark("flight-1") != event_mark("flight-2")
