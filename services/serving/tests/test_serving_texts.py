"""The text of vectors that rows keep for their readers is that of the numbers which were scored."""

from collections import deque
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_cases import PARTITIONS, T0_US, inputs, pipeline

from tidemill_contracts.events import FeatureVector
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_serving.domain import replica as replica_module
from tidemill_serving.domain.plan import Lines, Plan
from tidemill_serving.domain.replica import Replica
from tidemill_serving.domain.requests import Reader

SPEC = pipeline()
PLACE = ("by-carrier", SPEC.view_version("by-carrier"))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.none()


def holding(**vectors: list[float | None]) -> Replica:
    made = Replica()
    made.want(PLACE, width=2, partitions=PARTITIONS)
    for entity, values in vectors.items():
        put(made, entity, values)
    return made


def put(made: Replica, entity: str, values: list[float | None], *, revision: int = 1) -> None:
    vector = FeatureVector(
        view=PLACE[0], version=PLACE[1], entity=entity, at_us=T0_US, revision=revision, values=values, positions={}
    )
    made.apply(PLACE, 0, entity.encode(), vector.model_dump_json().encode())


def read(plan: Plan, state: Replica, *bodies: dict[str, Any], spec: PipelineSpec = SPEC) -> Lines:
    asks, _ = Reader(spec.request).read({"instances": [{"inputs": body} for body in bodies]})
    return plan.lines(plan.tables(state), asks, None)


def numbers(lines: Lines) -> list[bytes]:
    """As they would be written from the matrix."""
    return [msgspec.json.encode(vector) for vector in lines.vectors.tolist()]


@given(st.lists(NUMBERS, min_size=2, max_size=2), st.lists(NUMBERS, min_size=2, max_size=2), st.floats(0, 10_000))
def test_texts_are_those_of_the_matrix(first: list[float | None], second: list[float | None], distance: float) -> None:
    state, plan = holding(AA=first, UA=second), Plan(SPEC, SPEC.feature_names())
    bodies = [inputs(carrier=name, distance=distance) for name in ("AA", "UA", "DL", "AA")]
    for _ in range(2):  # written, and read again
        lines = read(plan, state, *bodies)
        assert [bytes(text) for text in plan.texts(lines)] == numbers(lines)
    put(state, "AA", second, revision=2)
    lines = read(plan, state, *bodies)
    assert [bytes(text) for text in plan.texts(lines)] == numbers(lines)


def test_another_order_of_the_columns_is_written_from_the_matrix() -> None:
    names = list(SPEC.feature_names())
    plan = Plan(SPEC, names[::-1][:3])
    lines = read(plan, holding(AA=[1.5, None]), inputs())
    assert [bytes(text) for text in plan.texts(lines)] == numbers(lines) == [b"[10.0,100.0,null]"]


def test_what_was_put_in_is_written() -> None:
    plan = Plan(SPEC, SPEC.feature_names())
    lines = read(plan, holding(AA=[1.5, 2.5]), inputs())
    plan.texts(lines)
    lines.vectors[0, 0] = -7.0
    assert bytes(plan.texts(lines, is_changed=True)[0]) == b"[-7.0,2.5,100.0,10.0]"


def test_so_many_rows_keep_their_text_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica_module, "_written", deque(maxlen=2))
    state, plan = holding(AA=[1.0, 1.0], UA=[2.0, 2.0], DL=[3.0, 3.0]), Plan(SPEC, SPEC.feature_names())
    for name in ("AA", "UA", "DL", "AA"):
        lines = read(plan, state, inputs(carrier=name))
        assert [bytes(text) for text in plan.texts(lines)] == numbers(lines)
        kept = [row.text for row in state.tables[PLACE].rows.values() if row.text is not None]
        assert len(kept) <= 2
    assert {row.text for row in state.tables[PLACE].rows.values()} == {b"1.0,1.0", None, b"3.0,3.0"}
