"""The expression language: what it means, what it refuses, and that columns and single rows agree bit for bit."""

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill_contracts.pipeline import BooleanField, CategoryField, FieldSpec, NumberField, StringField, TimestampField
from tidemill_engine.expressions import (
    BOOLEAN,
    NUMBER,
    TEXT,
    TIMESTAMP,
    ExpressionError,
    FieldType,
    compile_expression,
    encode_columns,
    field_types,
)

CARRIER = FieldType("category", ("AA", "UA", "B6"))
FIELDS = {"x": NUMBER, "y": NUMBER, "ok": BOOLEAN, "at": TIMESTAMP, "name": TEXT, "carrier": CARRIER}


@pytest.mark.parametrize(
    ("text", "row", "value"),
    [
        ("1 + 2 * 3", {}, 7.0),
        ("(1 + 2) * 3 - 4 / 8", {}, 8.5),
        ("2 - 3 - 4", {}, -5.0),
        ("-x % 3", {"x": 5}, 1.0),
        ("x / y", {"x": 1.0, "y": 0.0}, None),
        ("x % y", {"x": 1.0, "y": 0.0}, None),
        ("x * 10", {"x": 1e308}, None),
        ("log(x)", {"x": -1.0}, None),
        ("log(x)", {"x": 0.0}, None),
        ("log1p(x)", {"x": -1.0}, None),
        ("sqrt(x)", {"x": -1.0}, None),
        ("exp(x)", {"x": 1e4}, None),
        ("x + 1", {}, None),
        ("x + 1", {"x": "seven"}, None),
        ("x + 1", {"x": 10**400}, None),
        ("x + ok", {"x": 1, "ok": True}, 2.0),
        ("x >= 15", {"x": 15}, 1.0),
        ("x == y", {"x": 1}, None),
        ("not x > 1 and y < 2", {"x": 0, "y": 1}, 1.0),
        ("ok and x > 0", {"ok": False}, 0.0),
        ("ok or x > 0", {"ok": True}, 1.0),
        ("ok and x > 0", {"ok": True}, None),
        ("if(x > y, 1, 2)", {"x": 1, "y": 2}, 2.0),
        ("if(x > y, 1, 2)", {"x": 1}, None),
        ("if(ok, carrier, 'UA') == 'UA'", {"ok": False}, 1.0),
        ("if(is_null(x), null, x)", {"x": 3}, 3.0),
        ("coalesce(x, y, 7)", {}, 7.0),
        ("coalesce(x, y, 7)", {"y": 2}, 2.0),
        ("is_null(name)", {}, 1.0),
        ("min(x, y, 3)", {"x": 4, "y": 5}, 3.0),
        ("max(x, y)", {"x": 4}, None),
        ("clip(x, 0, 1)", {"x": 7}, 1.0),
        ("round(x)", {"x": 2.5}, 2.0),
        ("floor(x) + ceil(x)", {"x": -1.5}, -3.0),
        ("code(carrier)", {"carrier": "B6"}, 2.0),
        ("code(carrier)", {"carrier": "ZZ"}, None),
        ("carrier in ['AA', 'B6']", {"carrier": "B6"}, 1.0),
        ("carrier not in ['AA', 'B6']", {"carrier": "B6"}, 0.0),
        ("carrier in ['AA']", {}, None),
        ("carrier == name", {"carrier": "AA", "name": "AA"}, 1.0),
        ("name == 'it\\'s'", {"name": "it's"}, 1.0),
        ("x in [1, -2.5]", {"x": -2.5}, 1.0),
        ('lookup(carrier, {"AA": 1, "UA": -2.5})', {"carrier": "UA"}, -2.5),
        ('lookup(carrier, {"AA": 1, "UA": -2.5})', {"carrier": "B6"}, None),
        ("lookup(x, {1: 10})", {"x": 1}, 10.0),
        ("at - timestamp('2013-01-01T00:00:00Z')", {"at": "2013-01-02T00:00:00.5Z"}, 86400.5),
        ("at < timestamp('2013-01-01T00:00:00Z')", {"at": 0}, 1.0),
        ("hour(at)", {"at": "not a time"}, None),
        ("hour(at)", {"at": 2**62}, None),
    ],
)
def test_meaning(text: str, row: dict[str, Any], value: float | None) -> None:
    compiled = compile_expression(text, FIELDS)
    assert compiled.row(row) == value
    columns = {name: np.array([row.get(name)], object) for name in FIELDS}
    assert compiled(columns).tolist() == [value] if value is not None else np.isnan(compiled(columns)).all()


@pytest.mark.parametrize(
    ("text", "utc", "value"),
    [
        ("hour(at)", "2013-03-10T07:30:00Z", 7),
        ("hour(at, 'America/New_York')", "2013-03-10T06:59:59.999999Z", 1),  # the hour that springs forward
        ("hour(at, 'America/New_York')", "2013-03-10T07:00:00Z", 3),
        ("hour(at, 'America/New_York')", "2013-11-03T05:59:59Z", 1),  # the hour that happens twice
        ("hour(at, 'America/New_York')", "2013-11-03T06:00:00Z", 1),
        ("hour(at, 'America/New_York')", "2013-11-03T07:00:00Z", 2),
        ("minute_of_day(at, 'Australia/Lord_Howe')", "2013-10-05T15:30:00Z", 150),  # half an hour of summer time
        ("minute(at, 'Asia/Kathmandu')", "2013-01-01T00:00:00Z", 45),
        (
            "minute(at, 'Africa/Monrovia')",
            "1972-01-07T00:44:30Z",
            44,
        ),  # 44 min 30 s became 0 within a quarter of an hour
        ("hour(at, 'Africa/Monrovia')", "1972-01-07T00:44:29Z", 23),
        ("day(at)", "2000-02-29T23:59:59.999999Z", 29),
        ("day(at)", "2100-03-01T00:00:00Z", 1),
        ("month(at)", "1969-12-31T23:59:59Z", 12),
        ("year(at)", "1969-12-31T23:59:59Z", 1969),
        ("day_of_week(at)", "2013-01-01T00:00:00Z", 1),
        ("day_of_week(at, 'America/New_York')", "2013-01-01T00:00:00Z", 0),
        ("day_of_week(at)", "1969-12-28T00:00:00Z", 6),
    ],
)
def test_parts_of_dates(text: str, utc: str, value: float) -> None:
    compiled = compile_expression(text, FIELDS)
    assert compiled.row({"at": utc}) == value
    assert compiled(encode_columns(FIELDS, [{"at": utc}, {}])).tolist()[0] == value


@pytest.mark.parametrize(
    ("text", "rule", "position"),
    [
        ("", "ends too early", 0),
        ("1 +", "ends too early", 3),
        ("x = 1", "written ==", 2),
        ("x < y < 1", "do not chain", 6),
        ("carrier == 'ZZ'", "not a declared value", 11),
        ("carrier < 'AA'", "has no order", 8),
        ("nothing + 1", "nothing is not a field", 0),
        ("nothing(1)", "nothing is not a function", 0),
        ("log(name)", "log needs a number", 4),
        ("if(x, 1, 2)", "if needs true or false", 3),
        ("if(ok, 1, 'a')", "do not go together", 10),
        ("x and ok", "and needs true or false", 0),
        ("min(x)", "takes 2 to 64 arguments", 0),
        ("hour(x)", "hour needs a timestamp", 5),
        ("hour(at, 'Mars')", "not a time zone", 9),
        ("hour(at, '../passwd')", "not a time zone", 9),
        ("lookup(x)", "needs a table", 0),
        ("lookup(x, {1: 1, 1: 2})", "keys are distinct", 17),
        ("carrier", "must give a number or true or false", 0),
        ("1e999", "too large", 0),
        ("x.y..z", "has no meaning", 3),
        ("'open", "does not end", 0),
        ("__import__('os')", "not a function", 0),
        ("1 2", "operator is missing", 2),
        ("(" * 101 + "1", "nested at most 100", 100),
        ("+".join("x" * 200), "nested at most 100", 199),
        ("1" + " " * 4096, "at most 4096", 4096),
    ],
)
def test_refusals_name_rule_and_position(text: str, rule: str, position: int) -> None:
    with pytest.raises(ExpressionError, match=rule) as caught:
        compile_expression(text, FIELDS)
    assert caught.value.position == position


def test_types_come_from_the_pipeline_file() -> None:
    specs: dict[str, FieldSpec] = {
        "x": NumberField(type="integer"),
        "ok": BooleanField(type="boolean"),
        "at": TimestampField(type="timestamp"),
        "name": StringField(type="string"),
        "carrier": CategoryField(type="category", values=["AA", "UA", "B6"]),
    }
    assert field_types(specs) == {name: FIELDS[name] for name in specs}


def test_columns_are_checked_and_left_alone() -> None:
    column = np.array([-0.0, math.inf, 2.0])
    compiled = compile_expression("x", FIELDS)
    assert compiled({"x": column}).tolist()[2] == 2.0
    assert math.isinf(column[1])
    with pytest.raises(KeyError):
        compiled({"y": column})
    with pytest.raises(ValueError, match="length"):
        compile_expression("x + y", FIELDS)({"x": column, "y": column[:1]})
    assert compile_expression("1 > 2", FIELDS)({}, rows=2).tolist() == [0.0, 0.0]
    assert compile_expression("1 > 2", FIELDS).is_boolean


NUMBERS = st.one_of(
    st.none(), st.floats(), st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 2.5, 1e308, 5e-324]), st.integers(-10, 10)
)
ROWS = st.fixed_dictionaries(
    {
        "x": NUMBERS,
        "y": NUMBERS,
        "ok": st.sampled_from([True, False, None]),
        "at": st.one_of(st.none(), st.integers(-(2**62), 2**62), st.integers(0, 4 * 10**15)),
        "name": st.sampled_from(["AA", "", "ZZ", None]),
        "carrier": st.sampled_from(["AA", "UA", "B6", "ZZ", None]),
    }
)


def _numbers(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    unary = st.sampled_from(
        ["-({})", "abs({})", "log({})", "log1p({})", "exp({})", "sqrt({})", "floor({})", "round({})", "sin({})"]
    )
    binary = st.sampled_from(
        [
            "({} + {})",
            "({} - {})",
            "({} * {})",
            "({} / {})",
            "({} % {})",
            "min({}, {})",
            "max({}, {})",
            "coalesce({}, {})",
        ]
        + [f"({{}} {o} {{}})" for o in ("==", "!=", "<", "<=", ">", ">=")]
        + ["if(({} > {}) and not ok or carrier == name, x, y)", "({} in [0, 1, 2.5]) + {}", "clip({}, {}, 2)"]
    )
    return st.one_of(
        st.builds(str.format, unary, inner), st.builds(lambda form, a, b: form.format(a, b), binary, inner, inner)
    )


LEAVES = [
    *("x", "y", "ok", "1", "0", "2.5", "1e300", "code(carrier)", "month(at)", "day(at)", "day_of_week(at)", "year(at)"),
    *("hour(at, 'America/New_York')", "minute_of_day(at, 'Europe/Berlin')", "lookup(name, {'AA': 3})"),
    "(at - timestamp('2013-01-01T00:00:00Z'))",
]
TEXTS = st.recursive(st.sampled_from(LEAVES), _numbers, max_leaves=8)


def _bits(value: float | None) -> bytes:
    return struct.pack("<d", np.nan if value is None else value)


@settings(max_examples=300)
@given(text=TEXTS, rows=st.lists(ROWS, min_size=1, max_size=5))
def test_columns_and_rows_agree_bit_for_bit_and_are_total(text: str, rows: list[dict[str, Any]]) -> None:
    compiled = compile_expression(text, FIELDS)
    column = compiled(encode_columns(FIELDS, rows))
    singles = [compiled.row(row) for row in rows]
    assert [_bits(value) for value in column.tolist()] == [_bits(value) for value in singles]
    assert not np.isinf(column).any()


@settings(max_examples=300)
@given(st.text(alphabet="xyok()[]{}+-*/%<>=!,:.'\"0123456789 andorint_", max_size=40))
def test_no_text_crashes_the_compiler(text: str) -> None:
    try:
        compile_expression(text, FIELDS)
    except ExpressionError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 - most texts are refused, some are not
