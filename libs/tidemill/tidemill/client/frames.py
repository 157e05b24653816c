"""Predictions for tables: Arrow, pandas or polars in, the same kind out. pandas and polars need not be installed."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from tidemill.client.calls import Steps, predict_many
from tidemill.client.errors import TidemillError
from tidemill.client.results import Prediction
from tidemill_contracts import format_time, to_us

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("prediction_id", "score", "epoch", "version", "model", "degraded")
"""Of the answer, in the order of the rows."""


def predict_frame(
    pipeline: str, frame: Any, *, id: str | None = None, time: str | None = None  # noqa: A002, ANN401 - the wire's name
) -> Steps[Any]:  # fmt: skip
    """Predict every row of a table; returns a table of the same kind with a row for each, in order.

    Columns are request fields; nulls and NaN are left out. `id` and `time` name columns that are those of the instances
    instead: the same ids again give the same answers. A pandas index stays.

    Raises:
        TidemillError: not a table, no such column, or a value that a request field cannot have.
    """
    kind = _kind(frame)
    answers = yield from predict_many(pipeline, _instances(_arrow(frame, kind), id, time))
    return _back(answers, frame, kind)


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
    names = [str(name) for name in table.column_names]
    if missing := [name for name in (identity, time) if name is not None and name not in names]:
        raise TidemillError(f"the table has no column {missing[0]}")
    if len(set(names)) != len(names):
        raise TidemillError("two columns of the table have one name")
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


def _back(answers: Sequence[Prediction], frame: Any, kind: str) -> Any:  # noqa: ANN401 - three libraries
    columns: Mapping[str, list[Any]] = {name: [getattr(one, name) for one in answers] for name in COLUMNS}
    if kind == "pyarrow":
        import pyarrow as pa  # noqa: PLC0415 - see above

        return pa.table(columns)
    made = type(frame)  # not imported: the caller has the library, and nothing else here needs it
    return made(columns, index=frame.index) if kind == "pandas" else made(columns)


__all__ = ["predict_frame"]
