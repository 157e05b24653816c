"""Runs in DuckDB's own environment: the features of a view, from nothing but its events, in SQL.

A line of standard input holds {windows: [[pane_us, panes, gap_us | null]...], features: [{function, column, where,
window, parameter, of}...], events: [[key, time_us, mark, a, b, c]...], at_us}; the answer is {key: [value...]}, null
where there is none. `distinct` is left null: it is an estimate by a method that DuckDB does not have.
"""

import json
import sys
from collections.abc import Iterable
from typing import Any

import duckdb

Json = dict[str, Any]
NEWEST = "ORDER BY t DESC, m DESC, x DESC"


def literal(value: Any) -> str:  # noqa: ANN401 - a key, a whole number, a number or null
    """As SQL; numbers by their shortest text, which DuckDB reads back exactly."""
    if value is None:
        return "NULL::DOUBLE"
    if isinstance(value, float):
        return f"'{value!r}'::DOUBLE"
    return f"'{value}'" if isinstance(value, str) else f"'{value}'::BIGINT"  # else the lowest is a sign and too much


def spans(windows: Iterable[tuple[int, int, int | None]], at: int) -> Iterable[tuple[str, str]]:
    """Names and bodies of tables, each the one before with a column for one window more: whether the event is in."""
    before = "e"
    for number, (pane, panes, gap) in enumerate(windows):
        name, oldest = f"e{number}", (at // pane - panes + 1) * pane
        if gap is None:
            yield name, f"SELECT *, t >= {oldest} AS w{number} FROM {before}"
        else:
            newer = "(PARTITION BY k ORDER BY t DESC, n)"
            yield f"b{number}", f"SELECT *, coalesce(lag(t) OVER {newer}, {at}) - t > {gap} AS ends FROM {before}"
            inside = f"count(*) FILTER (ends) OVER {newer[:-1]} ROWS UNBOUNDED PRECEDING) = 0"
            yield name, f"SELECT * EXCLUDE ends, t >= {oldest} AND {inside} AS w{number} FROM b{number}"
        before = name


def feature(item: Json, windows: list[list[Any]], at: int) -> str:
    """One aggregate."""
    column, function, parameter = item["column"], item["function"], item["parameter"]
    inside = "true" if item["window"] is None else f"w{item['window']}"
    only = f"FILTER ({inside} AND ({item['where'] or 'true'}) AND {column} IS NOT NULL)"
    newest = NEWEST.replace("x", column)
    if function in {"var", "std"}:
        mean, values = f"favg({column}) {only}", f"list({column}) {only}"
        squares = f"list_sum(list_transform({values}, lambda v: (v - {mean}) * (v - {mean})))"
        spread = f"CASE WHEN len({values}) > 1 THEN {squares} / (len({values}) - 1) END"
        return spread if function == "var" else f"sqrt({spread})"
    if function == "top":
        counts = [f"count(*) FILTER ({inside} AND ({item['where'] or 'true'}) AND {column} = {n})"
                  for n in range(parameter)]  # fmt: skip
        most = f"greatest({', '.join(counts)})"
        return f"CASE {most} WHEN 0 THEN NULL {' '.join(f'WHEN {each} THEN {n}' for n, each in enumerate(counts))} END"
    if function == "ewma":
        pane = windows[item["window"]][0]
        weight = f"pow(0.5, ({at // pane} - t // {pane}) * {pane} / {parameter})"
        return f"fsum({weight} * {column}) {only} / fsum({weight}) {only}"
    return {
        "count": f"count({column}) {only}", "sum": f"coalesce(fsum({column}) {only}, 0)",
        "mean": f"favg({column}) {only}", "min": f"min({column}) {only}", "max": f"max({column}) {only}",
        "first": f"last({column} {newest}) {only}", "last": f"first({column} {newest}) {only}",
        "lag": f"(list({column} {newest}) {only})[{(parameter or 0) + 1}]",
        "age_of_last": f"({at} - max(t) {only}) / 1e6", "distinct": "NULL",
    }[function]  # fmt: skip


def query(what: Json) -> str:
    """All features of all keys."""
    at, windows = what["at_us"], what["windows"]
    rows = ", ".join(f"({', '.join(map(literal, [n, *row]))})" for n, row in enumerate(what["events"]))
    tables = [("e(n, k, t, m, a, b, c)", f"VALUES {rows}"), *spans(windows, at)]
    plain = [(n, item) for n, item in enumerate(what["features"]) if not item["of"]]
    wanted = ", ".join(f"({feature(item, windows, at)})::DOUBLE AS f{n}" for n, item in plain)
    last = tables[-1][0].partition("(")[0]
    tables.append(("found", f"SELECT k, {wanted} FROM {last} GROUP BY k"))
    shown = [
        f"f{item['of'][0]} / nullif(f{item['of'][1]}, 0)" if item["of"] else f"f{n}"
        for n, item in enumerate(what["features"])
    ]
    return f"WITH {', '.join(f'{name} AS ({body})' for name, body in tables)} SELECT k, {', '.join(shown)} FROM found"


def main() -> None:
    """Answer until standard input ends."""
    with duckdb.connect() as database:
        database.execute("SET threads = 1")
        for line in sys.stdin:
            found = {key: row for key, *row in database.execute(query(json.loads(line))).fetchall()}
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
