"""Predictions for tables: Arrow, pandas or polars in, the same kind out. pandas and polars need not be installed."""

import math
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from tidemill.client.calls import Call, Steps, part_of, predict_many
from tidemill.client.errors import RefusedError, TidemillError
from tidemill.client.transport import ARROW
from tidemill_contracts import format_time, to_us

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from tidemill.client.results import Prediction

COLUMNS = ("prediction_id", "score", "epoch", "version", "model", "degraded")
"""Of the answer, in the order of the rows."""
LARGE, MOST_ROWS, UNSUPPORTED = 500, 10_000, 415


class _Row(NamedTuple):
    """What a table gets of an answer: the fields are COLUMNS."""

    prediction_id: str
    score: float
    epoch: int
    version: int
    model: str
    degraded: bool


def predict_frame(
    pipeline: str, frame: Any, *, id: str | None = None, time: str | None = None  # noqa: A002, ANN401 - the wire's name
) -> Steps[Any]:  # fmt: skip
    """Predict every row of a table; returns a table of the same kind with a row for each, in order.

    Columns are request fields; nulls and NaN are left out. `id` and `time` name columns that are those of the instances
    instead: the same ids again give the same answers. A pandas index stays. Tables of 500 rows and more travel as
    Arrow, 10,000 rows at a time.

    Raises:
        TidemillError: not a table, no such column, or a value that a request field cannot have.
    """
    kind = _kind(frame)
    table = _arrow(frame, kind)
    answers: Sequence[Prediction | _Row] | None = None
    if table.num_rows >= LARGE:
        try:
            answers = yield from _predict_table(pipeline, _columns(table, id, time))
        except RefusedError as error:
            if error.status != UNSUPPORTED:
                raise  # else an older service, which knows only JSON
    if answers is None:
        answers = yield from predict_many(pipeline, _instances(table, id, time))
    return _back(answers, frame, kind)


def _predict_table(pipeline: str, table: "pa.Table") -> "Steps[list[_Row]]":
    import pyarrow as pa  # noqa: PLC0415 - see below

    rows = list[_Row]()
    for start in range(0, table.num_rows, MOST_ROWS):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(start, MOST_ROWS))
        path = f"/v1/predict/{part_of(pipeline)}"
        answer = yield Call("serving", "POST", path, bytes(sink.getvalue()), headers={"content-type": ARROW})
        with pa.ipc.open_stream(pa.BufferReader(answer)) as reader:
            found = reader.read_all().select(list(COLUMNS)).to_pydict()
        rows += [_Row(*values) for values in zip(*found.values(), strict=True)]
    return rows


def _columns(table: "pa.Table", identity: str | None, time: str | None) -> "pa.Table":
    """The table as serving takes it: every row with an id, so that a request sent again has one effect; no NaN."""
    import pyarrow as pa  # noqa: PLC0415 - see below

    names = _checked_names(table, identity, time)
    columns: dict[str, Any] = {}
    for name in names:
        column = table.column(name)
        _check_column(name, column.type)
        if pa.types.is_floating(column.type):
            numbers = [_value(name, item) for item in column.to_pylist()]
            column = pa.array(numbers, column.type)
        columns[{identity: "$id", time: "$time"}.get(name, name)] = column
    own = columns.pop("$id").to_pylist() if "$id" in columns else [None] * table.num_rows
    columns["$id"] = pa.array([str(uuid4()) if each is None else str(each) for each in own])
    return pa.table(columns)


def _check_column(name: str, kind: "pa.DataType") -> None:
    import pyarrow as pa  # noqa: PLC0415 - see below

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_timestamp(inner) and inner.tz is None:
        raise TidemillError(f"{name} holds times without a time zone")
    is_flat = pa.types.is_primitive(inner) or pa.types.is_string(inner) or pa.types.is_large_string(inner)
    if not (is_flat or pa.types.is_null(inner)):
        raise TidemillError(f"{name} holds {inner}, which no request field takes")


def _kind(frame: object) -> str:
    kind = type(frame).__module__.partition(".")[0]
    if kind not in {"pandas", "polars", "pyarrow"} or not hasattr(frame, "columns"):
        raise TidemillError(f"a table of pyarrow, pandas or polars is wanted, not {type(frame).__name__}")
    return kind


def _arrow(frame: Any, kind: str) -> "pa.Table":  # noqa: ANN401 - three libraries
    import pyarrow as pa  # noqa: PLC0415 - only who has tables pays for it

    if kind == "pandas":
        return pa.Table.from_pandas(frame, preserve_index=False)
    return frame.to_arrow() if kind == "polars" else pa.table(frame)


def _instances(table: "pa.Table", identity: str | None, time: str | None) -> list[dict[str, Any]]:
    names = _checked_names(table, identity, time)
    columns = {name: [_value(name, item) for item in table.column(name).to_pylist()] for name in names}
    ids = None if identity is None else columns.pop(identity)
    times = None if time is None else columns.pop(time)
    found = []
    for row in range(table.num_rows):
        instance: dict[str, Any] = {
            "inputs": {name: values[row] for name, values in columns.items() if values[row] is not None}
        }
        if ids is not None and ids[row] is not None:
            instance["id"] = str(ids[row])
        if times is not None and times[row] is not None:
            instance["time"] = times[row]
        found.append(instance)
    return found


def _checked_names(table: "pa.Table", identity: str | None, time: str | None) -> list[str]:
    names = [str(name) for name in table.column_names]
    if missing := [name for name in (identity, time) if name is not None and name not in names]:
        raise TidemillError(f"the table has no column {missing[0]}")
    if len(set(names)) != len(names):
        raise TidemillError("two columns of the table have one name")
    return names


def _value(name: str, item: object) -> object:
    """As JSON has it: times with their offset, no NaN."""
    if item is None or isinstance(item, str | bool | int):
        return item
    if isinstance(item, float):
        if math.isinf(item):
            raise TidemillError(f"{name} holds an infinity")
        return None if math.isnan(item) else item
    if isinstance(item, datetime):
        if item.tzinfo is None:
            raise TidemillError(f"{name} holds times without a time zone")
        return format_time(to_us(item))
    raise TidemillError(f"{name} holds {type(item).__name__}, which no request field takes")


def _back(answers: "Sequence[Prediction | _Row]", frame: Any, kind: str) -> Any:  # noqa: ANN401 - three libraries
    columns: Mapping[str, list[Any]] = {name: [getattr(one, name) for one in answers] for name in COLUMNS}
    if kind == "pyarrow":
        import pyarrow as pa  # noqa: PLC0415 - see above

        return pa.table(columns)
    made = type(frame)  # not imported: the caller has the library, and nothing else here needs it
    return made(columns, index=frame.index) if kind == "pandas" else made(columns)


__all__ = ["predict_frame"]
