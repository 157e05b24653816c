"""Bodies that come together are read as one by one: the same rows, or left to whoever reads one."""

from collections.abc import Sequence

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidemill_runtime.http.heads import Reply
from tidemill_runtime.http.together import Asked
from tidemill_runtime.http.wire_compiled import BODY, COLUMNS, END, START, TRACE
from tidemill_runtime.known import Ints
from tidemill_serving.api.forms import Forms
from tidemill_serving.domain.bodies import Bodies

HEAD = b"POST /x HTTP/1.1\r\n\r\n"


class Nobody:
    """No connections."""

    def wait(self, rows: Ints) -> Sequence[Reply]:
        raise AssertionError(rows)

    def refuse(self, rows: Ints, head: tuple[bytes, bytes], body: bytes) -> None:
        raise AssertionError(rows, head, body)


def together(bodies: list[bytes]) -> Asked:
    """As the edge has them: each behind its head, one after the other."""
    raw = np.frombuffer(b"".join(HEAD + body for body in bodies) + b"]", np.uint8).copy()
    rows, at = np.zeros((len(bodies), COLUMNS), np.int64), 0
    for row, body in zip(rows, bodies, strict=True):
        row[START], row[BODY], row[END], row[TRACE] = at, at + len(HEAD), at + len(HEAD) + len(body), -1
        at = int(row[END])
    return Asked(raw, memoryview(raw), rows, Nobody())  # type: ignore[arg-type]  # numpy's arrays are buffers


def tensor(data: list[float], **more: object) -> bytes:
    inputs = [{"name": "features", "shape": [1, len(data)], "datatype": "FP32", "data": data}]
    return msgspec.json.encode({"inputs": inputs, **more})


ODD = [
    b"", b"{}", b'"data"', b'"data":[', b'{"data":[1]}', b'{"inputs":[{"data":[1', tensor([1.5], id="7"), tensor([]),
    tensor([2.0]).replace(b"[2.0]", b"[ -2.0 ]"), tensor([2.0]).replace(b'"data":', b'"data" :\t'),
    tensor([1.0]).replace(b"features", b"da\\u0074a"), b'{"x":"\\"data\\":[1]",' + tensor([1.0])[1:],
    tensor([3.0]).replace(b'"data":[', b'"data":"data",  "data":['),
]  # fmt: skip


@given(st.lists(st.sampled_from(ODD) | st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3).map(tensor), max_size=8))
def test_together_they_are_what_they_are_alone(bodies: list[bytes]) -> None:
    alone, forms = Bodies(), Forms()
    assert forms.find(together(bodies)) == [None] * len(bodies), "nothing is known yet"
    singly = [alone.find(body) for body in bodies]
    for found in singly:
        if found is not None:
            forms.learn(found)
    for body, one, found in zip(bodies, singly, forms.find(together(bodies)), strict=True):
        if found is None:
            assert one is None or one.id is not None, body
            continue
        assert one is not None
        assert (found.height, found.width, found.id) == (one.height, one.width, None)
        assert found.raw[found.start :] == one.raw[one.start :]


def test_a_form_with_an_id_is_left_to_others() -> None:
    forms, body = Forms(), tensor([1.0], id="mine")
    found = Bodies().find(body)
    assert found is not None
    forms.learn(found)
    assert forms.find(together([body])) == [None]
