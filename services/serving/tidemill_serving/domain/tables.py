"""Tables in and out: rows as instances, answers as columns. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from tidemill_serving.domain.answers import Answer
from tidemill_serving.domain.body import Fault, RefusedError
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.extras import check_inline
from tidemill_serving.domain.requests import MAXIMUM_INSTANCES, Ask

ID, TIME = "$id", "$time"
"""Columns of an instance's own; no request field can have such a name."""
_PLACE = re.compile(r"^instances\.(\d+)(.*)$")
TYPES = {
    "id": "string", "prediction_id": "string", "score": "float64", "epoch": "int64", "version": "int64",
    "model": "string", "revisions": "map", "features_at": "string", "defaulted": "list", "degraded": "bool",
    "trace_id": "string", "members": "string", "arm": "string", "share": "float64", "fallback": "string",
    "above": "list", "inline": "list",
}  # fmt: skip
"""Of the columns of an answer, as `tidemill_runtime.http.arrow` names them."""


class Columns(Protocol):
    """A table as Python has it."""

    @property
    def height(self) -> int: ...

    @property
    def values(self) -> Mapping[str, list[Any]]: ...


def read_asks(desk: Desk, columns: Columns) -> list[Ask]:
    """The rows as instances; raises RefusedError with 422 that names row, column and rule."""
    if not columns.height:
        raise RefusedError(422, "no rows", "", (Fault("", "length", "the table has no rows"),))
    asks: list[Ask] = []
    rows = _instances(columns)
    for start in range(0, len(rows), MAXIMUM_INSTANCES):
        try:
            asks += desk.reader.read({"instances": rows[start : start + MAXIMUM_INSTANCES]})[0]
        except RefusedError as refused:
            raise _shifted(refused, start) from None
    if desk.champion.active is not None:
        check_inline(asks, desk.champion.active.plan.features)
    return asks


def _instances(columns: Columns) -> list[dict[str, Any]]:
    """Nulls are left out; a name with a dot, which no request field has, is a feature of a view."""
    own = {ID: "id", TIME: "time"}
    inputs = [(name, found) for name, found in columns.values.items() if name not in own and "." not in name]
    features = [(name, found) for name, found in columns.values.items() if "." in name]
    rows = []
    for row in range(columns.height):
        instance: dict[str, Any] = {"inputs": {name: found[row] for name, found in inputs if found[row] is not None}}
        for name, key in own.items():
            if name in columns.values and (value := columns.values[name][row]) is not None:
                instance[key] = value
        if features:
            instance["features"] = {name: found[row] for name, found in features}
        rows.append(instance)
    return rows


def _shifted(refused: RefusedError, start: int) -> RefusedError:
    def shift(fault: Fault) -> Fault:
        match = _PLACE.match(fault.field)
        return fault if match is None else fault._replace(field=f"instances.{int(match[1]) + start}{match[2]}")

    return RefusedError(refused.status, refused.title, refused.detail, tuple(map(shift, refused.faults)))


def columns_of(answers: Sequence[bytes], ids: Sequence[str | None]) -> dict[str, list[Any]]:
    """The answers as columns: `id` and the members of a JSON answer; `members` of a mix is JSON text."""
    found = [_decode(answer) for answer in answers]
    columns: dict[str, list[Any]] = {"id": list(ids)}
    columns |= {name: [getattr(answer, name) for answer in found] for name in TYPES if name != "id"}
    columns["members"] = [_encode(answer.members).decode() if answer.members else None for answer in found]
    columns["revisions"] = [list(answer.revisions.items()) for answer in found]
    return columns


_decode, _encode = msgspec.json.Decoder(Answer).decode, msgspec.json.encode
