from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from tidemill_contracts.events import EVENTS
from tidemill_runtime.compat import incompatibilities
from tidemill_runtime.schemas import breaks, differences, event_schema, write


class Inner(BaseModel):
    n: int = Field(ge=0, le=10)


class Old(BaseModel):
    a: int
    b: str | None = None
    kind: Literal["x", "y"] = "x"
    inner: Inner
    many: list[Inner] = []
    pair: tuple[int, int] = (0, 0)
    table: dict[str, int] = {}


def variant(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field definition
    """The schema of Old with some fields replaced (None: removed)."""
    fields = {
        "a": (int, ...), "b": (str | None, None), "kind": (Literal["x", "y"], "x"), "inner": (Inner, ...),
        "many": (list[Inner], []), "pair": (tuple[int, int], (0, 0)), "table": (dict[str, int], {}),
    } | changes  # fmt: skip
    annotations = {name: field[0] for name, field in fields.items() if field is not None}
    defaults = {name: field[1] for name, field in fields.items() if field is not None and field[1] is not ...}
    model: type[BaseModel] = type("New", (BaseModel,), {"__annotations__": annotations, **defaults})
    return model.model_json_schema()


class Wider(BaseModel):
    n: int = Field(ge=-5)


class Narrower(BaseModel):
    n: int = Field(ge=1, le=10)


class Demanding(BaseModel):
    n: int = Field(ge=0, le=10)
    m: int


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"added": (int, 0)},
        {"a": (float, ...)},
        {"a": (int | None, ...)},
        {"a": (int, 3)},
        {"kind": (Literal["x", "y", "z"], "x")},
        {"kind": (str, "x")},
        {"inner": (Wider, ...)},
        {"many": (list[Wider], [])},
        {"table": (dict[str, float], {})},
    ],
)
def test_a_reader_that_takes_more_is_compatible(changes: dict[str, Any]) -> None:
    assert incompatibilities(Old.model_json_schema(), variant(**changes)) == []


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"added": (int, ...)}, "$.added: newly required"),
        ({"b": (str | None, ...)}, "$.b: newly required"),
        ({"a": None}, "$.a: removed"),
        ({"a": (str, ...)}, "$.a: integer became string"),
        ({"b": (str, "")}, "$.b: null became string"),
        ({"kind": (Literal["x"], "x")}, "$.kind: no longer takes ['y']"),
        ({"inner": (Narrower, ...)}, "$.inner.n: minimum rose to 1"),
        ({"inner": (Demanding, ...)}, "$.inner.m: newly required"),
        ({"many": (list[Narrower], [])}, "$.many[].n: minimum rose to 1"),
        ({"pair": (tuple[int, int, int], (0, 0, 0))}, "$.pair: 2 positions became 3"),
        ({"pair": (tuple[int, str], (0, ""))}, "$.pair[1]: integer became string"),
        ({"table": (dict[str, str], {})}, "$.table.*: integer became string"),
    ],
)
def test_a_reader_that_takes_less_is_named(changes: dict[str, Any], what: str) -> None:
    assert what in incompatibilities(Old.model_json_schema(), variant(**changes))


def test_every_event_is_compatible_with_itself() -> None:
    for type_ in EVENTS:
        schema = event_schema(type_)
        assert incompatibilities(schema, schema) == [], type_


def test_a_contract_that_is_gone_and_one_that_narrowed_are_breaks() -> None:
    old = {"events/a.json": '{"properties": {"n": {"type": "number"}}}', "events/b.json": "{}", "openapi/x.yaml": "?"}
    new = {"events/a.json": '{"properties": {"n": {"type": "integer"}}}'}
    assert breaks(old, new) == [
        "schemas/events/a.json: $.n: integer or number became integer",
        "schemas/events/b.json: this contract is gone, and its records are not",
    ]


def test_drift_names_what_is_stale_missing_and_extra(tmp_path: Any) -> None:  # noqa: ANN401 - pytest's own
    write(tmp_path, {"a.json": "1", "b/c.yaml": "2"})
    assert differences(tmp_path, {"a.json": "1", "b/c.yaml": "2"}) == []
    assert differences(tmp_path, {"a.json": "0", "d.yaml": "3"}) == [
        "schemas/a.json differs from the code: run `make schemas`",
        "schemas/b/c.yaml belongs to nothing: delete it",
        "schemas/d.yaml is missing: run `make schemas`",
    ]
    write(tmp_path, {"d.yaml": "3"})
    assert differences(tmp_path, {"d.yaml": "3"}) == []
