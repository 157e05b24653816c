"""Filtered aggregations: bodies read together and one by one give the same columns, and sessions run beside them."""

import json
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from features_cases import pipeline

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_features.domain.views import View, compile_one, compile_program

LATE = "delay > 20 and carrier != 'AA'"


def rich(**late: str) -> PipelineSpec:
    """The tests' pipeline with filters, a ratio of two of them and a session."""
    spec = json.loads(pipeline().model_dump_json())
    view = spec["views"]["by-carrier"]
    view["windows"]["run"] = {"session": "20m"}
    view["aggregations"] = [
        {"function": "count"},
        {"function": "count", "name": "late", "where": LATE} | late,
        {"function": "max", "field": "delay", "name": "west", "where": "dest == 'LAX'", "windows": ["run"]},
        {"function": "distinct", "field": "dest", "name": "late", "where": LATE, "windows": ["run"]},
        {"function": "ratio", "dividend": "late_count_1h", "divisor": "count_1h"},
    ]
    return PipelineSpec.model_validate_json(json.dumps(spec))


def view() -> View:
    """By carrier."""
    return compile_one(rich(), "by-carrier", "tm")


def bodies(count: int) -> list[dict[str, Any]]:
    """Departures, some without delay or carrier."""
    draw = random.Random(3)
    found = []
    for n in range(count):
        body: dict[str, Any] = {"flight": f"F{n}", "origin": "JFK", "dest": draw.choice(["LAX", "SFO"])}
        if draw.random() < 0.8:
            body["delay"] = draw.choice([5.0, 20.0, 21.0, 60.0])
        if draw.random() < 0.9:
            body["carrier"] = draw.choice(["AA", "UA"])
        found.append(body)
    return found


def test_bodies_read_together_are_bodies_read_one_by_one() -> None:
    mine, given = view(), bodies(300)
    names = {name: name for body in given for name in body}
    together = mine.needs.read([SimpleNamespace(**(dict.fromkeys(names) | body)) for body in given], names, {})
    rows = [mine.read(f"e{n}", n, body) for n, body in enumerate(given)]
    places = [n for n, row in enumerate(rows) if row is not None]
    values = np.array([row.values for row in rows if row is not None], np.float64)
    assert together.places == places
    assert 0 < len(places) < 300
    assert np.where(np.isnan(values), np.nan, values).tobytes() == together.values.tobytes()


def test_a_filter_counts_what_plain_python_counts() -> None:
    mine, given = view(), bodies(300)
    late = mine.plan.fields.index(f"?{LATE}")
    rows = [row for n, body in enumerate(given) if (row := mine.read(f"e{n}", n, body)) is not None]
    wanted = [b for b in given if (b.get("delay") or 0) > 20 and b.get("carrier") not in {None, "AA"}]
    assert sum(row.values[late] == 1.0 for row in rows) == len(wanted) > 10


@pytest.mark.parametrize("where", ["delay", "nothing > 1", "delay >"])
def test_a_view_with_a_filter_that_is_none_is_refused(where: str) -> None:
    assert set(compile_program([rich(where=where)], "tm").refused) == {"late/by-carrier"}
