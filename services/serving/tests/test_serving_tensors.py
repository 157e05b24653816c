"""Binary tensors, packed bodies and chosen outputs over REST, and the tensors of every datatype by themselves."""

import gzip
import json
import struct
import zlib
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_cases import linear
from serving_edge import NAMES, SPEC, Edge, client

from tidemill_serving.api.encodings import accepted
from tidemill_serving.api.inference import MAXIMUM_BYTES
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.protocol import Call, Outcome, Rendering, Tensor, Wanted, read_call
from tidemill_serving.domain.protocol.datatypes import BYTES, NUMPY, from_items, from_raw, to_items, to_raw
from tidemill_serving.onnx import Scorer

pytestmark = pytest.mark.anyio
PATH = f"/v2/models/{SPEC.name}/infer"
WIDTH = len(NAMES)
ROWS = np.linspace(-2, 2, 3 * WIDTH, dtype=np.float32).reshape(3, WIDTH)


@pytest.fixture
def edge() -> Edge:
    made = Edge()
    made.release()
    return made


def packed(rows: Any = ROWS, datatype: str = "FP32", **fields: Any) -> tuple[bytes, dict[str, str]]:  # noqa: ANN401
    """A binary request and its headers."""
    raw = rows if isinstance(rows, bytes) else rows.tobytes()
    said = {
        "name": "features", "shape": list(getattr(rows, "shape", [1, WIDTH])), "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    } | fields.pop("tensor", {})  # fmt: skip
    head = json.dumps({"inputs": [said], **fields}).encode()
    return head + raw, {"inference-header-content-length": str(len(head)), "content-type": "application/octet-stream"}


async def post(http: httpx.AsyncClient, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return await http.post(PATH, content=body, headers=headers)


def scores(answer: httpx.Response) -> list[float]:
    """The scores of a binary answer."""
    assert answer.status_code == 200, answer.text
    size = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.content[:size])["outputs"]
    assert output["parameters"] == {"binary_data_size": len(answer.content) - size}
    found: list[float] = np.frombuffer(answer.content[size:], np.float32).tolist()
    return found


EXPECTED = Scorer(linear(NAMES), WIDTH).scores(ROWS).astype(np.float32).tolist()


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
async def test_binary_in_and_out_is_what_json_is(edge: Edge, datatype: str) -> None:
    rows = ROWS.astype(NUMPY[datatype])
    async with client(edge.front) as http:
        plain = {"inputs": [{"name": "features", "shape": [3, WIDTH], "datatype": datatype, "data": rows.tolist()}]}
        said = (await http.post(PATH, json=plain)).json()["outputs"][0]["data"]
        in_json = await post(http, *packed(rows, datatype))
        assert in_json.json()["outputs"][0]["data"] == said
        for fields in (
            {"parameters": {"binary_data_output": True}},
            {"outputs": [{"name": "probability", "parameters": {"binary_data": True}}]},
        ):
            assert scores(await post(http, *packed(rows, datatype, **fields))) == EXPECTED
            assert scores(await http.post(PATH, json=plain | fields)) == EXPECTED
        own: dict[str, Any] = {
            "parameters": {"binary_data_output": True},
            "outputs": [{"name": "probability", "parameters": {"binary_data": False}}],
        }
        assert (await post(http, *packed(rows, datatype, **own))).json()["outputs"][0]["data"] == said
    assert len(edge.log.entries) == 7
    assert {json.loads(entry.value)["rows"][2][0] for entry in edge.log.entries} == {float(rows[2, 0])}


WRONG: list[tuple[str, tuple[bytes, dict[str, str]], int]] = [
    ("too short", packed(ROWS[0].tobytes()[:-1]), 400),
    ("too long", packed(ROWS[0].tobytes() + b"1"), 400),
    ("more bytes than inputs", packed(ROWS.tobytes(), tensor={"parameters": {"binary_data_size": 4 * WIDTH}}), 400),
    ("fewer bytes than it says", packed(b"", tensor={"parameters": {"binary_data_size": 4 * WIDTH}}), 400),
    ("negative size", packed(b"", tensor={"parameters": {"binary_data_size": -1}}), 400),
    ("a size that is none", packed(b"", tensor={"parameters": {"binary_data_size": True}}), 400),
    ("NaN", packed(np.full((1, WIDTH), np.nan, np.float32)), 400),
    ("infinite", packed(np.full((1, WIDTH), np.inf, np.float32)), 400),
    ("no rows", packed(np.zeros((0, WIDTH), np.float32)), 400),
    ("one dimension", packed(ROWS[0]), 400),
    ("no dimension", packed(b"1234", tensor={"shape": []}), 400),
    ("negative dimension", packed(b"", tensor={"shape": [-1, WIDTH]}), 400),
    ("huge dimension", packed(b"", tensor={"shape": [0, 2**62, 2**62]}), 400),
    ("another type", packed(ROWS.astype(np.int32), "INT32"), 400),
    ("no type", packed(ROWS, "FLOAT"), 400),
    ("both", packed(ROWS, tensor={"data": [1.0]}), 400),
    ("neither", packed(b"", tensor={"parameters": {}}), 400),
    ("shared memory", packed(b"", tensor={"parameters": {"shared_memory_region": "a"}}), 400),
    ("unknown output", packed(outputs=[{"name": "x"}]), 400),
    ("an output twice", packed(outputs=[{"name": "probability"}] * 2), 400),
    ("classes", packed(outputs=[{"name": "probability", "parameters": {"classification": 2}}]), 400),
    ("a flag that is none", packed(parameters={"binary_data_output": 1}), 400),
    ("length beyond the body", (packed()[0], {"inference-header-content-length": "999999"}), 400),
    ("length zero", (packed()[0], {"inference-header-content-length": "0"}), 400),
    ("length that is none", (packed()[0], {"inference-header-content-length": "-1"}), 400),
    ("length inside of the JSON", (packed()[0], {"inference-header-content-length": "10"}), 400),
    ("unknown encoding", (packed()[0], packed()[1] | {"content-encoding": "br"}), 415),
    ("not packed", (packed()[0], packed()[1] | {"content-encoding": "gzip"}), 400),
    ("cut", (gzip.compress(packed()[0])[:-9], packed()[1] | {"content-encoding": "gzip"}), 400),
    ("something behind", (gzip.compress(packed()[0]) + b"1", packed()[1] | {"content-encoding": "gzip"}), 400),
    ("a bomb", (gzip.compress(bytes(MAXIMUM_BYTES + 1)), packed()[1] | {"content-encoding": "gzip"}), 413),
    ("another bomb", (zlib.compress(bytes(MAXIMUM_BYTES + 1)), packed()[1] | {"content-encoding": "deflate"}), 413),
]


@pytest.mark.parametrize(("name", "request_", "status"), WRONG, ids=[name for name, _, _ in WRONG])
async def test_what_is_wrong_with_a_tensor_is_said(
    edge: Edge, name: str, request_: tuple[bytes, dict[str, str]], status: int
) -> None:
    async with client(edge.front) as http:
        answer = await post(http, *request_)
        assert answer.status_code == status, answer.text
        assert list(answer.json()) == ["error"]
        assert answer.json()["error"]
    assert edge.log.entries == []


@pytest.mark.parametrize(("encoding", "pack", "unpack"), [
    ("gzip", gzip.compress, gzip.decompress), ("deflate", zlib.compress, zlib.decompress),
])  # fmt: skip
async def test_bodies_are_packed_both_ways(edge: Edge, encoding: str, pack: Any, unpack: Any) -> None:  # noqa: ANN401
    rows = np.tile(ROWS, (200, 1))
    body, headers = packed(rows, parameters={"binary_data_output": True})
    async with client(edge.front) as http:
        plain = await post(http, body, headers | {"accept-encoding": "identity"})
        assert "content-encoding" not in plain.headers
        asked = http.stream(
            "POST",
            PATH,
            content=pack(body),
            headers=headers | {"content-encoding": encoding, "accept-encoding": encoding},
        )
        async with asked as answer:
            raw = b"".join([part async for part in answer.aiter_raw()])
            assert answer.headers["content-encoding"] == encoding
            assert len(raw) < len(plain.content)
            size = int(answer.headers["inference-header-content-length"])
        assert np.frombuffer(unpack(raw)[size:], np.float32).tolist() == EXPECTED * 200
        small = await post(http, *packed(ROWS))
        assert "content-encoding" not in small.headers, "it is not worth it"


def test_which_packing_a_client_takes() -> None:
    assert accepted("") is accepted("br") is accepted("gzip;q=0") is accepted("gzip;q=x") is None
    assert accepted("deflate, GZIP") == accepted("gzip;q=0.5,deflate") == "gzip"
    assert accepted("deflate;q=1, gzip;q=0") == "deflate"


NUMBERS = [name for name in NUMPY if name != BYTES]


@pytest.mark.parametrize("datatype", NUMBERS)
def test_every_datatype_goes_both_ways(datatype: str) -> None:
    dtype = NUMPY[datatype]
    extremes = [0, 1] if datatype == "BOOL" else None
    info: Any = None if extremes else (np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype))
    values = np.array(extremes or [info.min, info.max, 0, 1], dtype).reshape(2, -1)
    tensor = Tensor("x", datatype, values)
    assert to_raw(tensor) == values.tobytes()
    for again in (
        from_raw("x", datatype, values.shape, to_raw(tensor)),
        from_items("x", datatype, values.shape, json.loads(json.dumps(to_items(tensor)))),
    ):
        assert (again.values.dtype, again.values.tolist()) == (dtype, values.tolist())
    wrong: list[Any] = ["1"] if datatype == "BOOL" else [True, None, "1"]
    if dtype.kind in "iu":
        wrong += [1.5, int(info.min) - 1, int(info.max) + 1]
    if dtype.kind == "f":
        wrong += [10**400, -(10**400)]
    for item in wrong:
        with pytest.raises(RefusedError):
            from_items("x", datatype, [1], [item])


@given(st.lists(st.binary(max_size=9), max_size=6))
def test_bytes_go_both_ways(items: list[bytes]) -> None:
    raw = b"".join(struct.pack("<I", len(item)) + item for item in items)
    tensor = from_raw("x", BYTES, [len(items)], raw)
    assert list(tensor.values) == items
    assert to_raw(tensor) == raw
    for wrong in (raw + b"1", raw + b"1111", raw[:-1]):
        if wrong != raw:
            with pytest.raises(RefusedError):
                from_raw("x", BYTES, [len(items)], wrong)


def test_text_of_bytes_is_utf8_or_is_asked_for_in_binary() -> None:
    tensor = from_items("x", BYTES, [2], ["é", ""])
    assert (list(tensor.values), to_items(tensor)) == (["é".encode(), b""], ["é", ""])
    with pytest.raises(RefusedError, match="binary"):
        to_items(from_raw("x", BYTES, [1], b"\x01\0\0\0\xff"))
    with pytest.raises(RefusedError, match="binary"):
        to_items(Tensor("x", "FP32", np.array([np.nan], np.float32)))


@given(st.binary(max_size=40), st.integers(0, 45))
def test_whatever_comes_is_read_or_refused(raw: bytes, length: int) -> None:
    prefix = b'{"inputs":[{"name":"a","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}'
    for body, size in ((raw, length), (prefix + raw, len(prefix))):
        try:
            read_call(body, size)
        except RefusedError as refused:
            assert refused.status == 400  # noqa: PT017 - what is not refused is fine too


def test_several_outputs_come_in_the_order_of_their_bytes() -> None:
    outputs = [Tensor("a", "INT64", np.array([1, 2])), Tensor("b", BYTES, np.array([b"x"], object))]
    rendering = Rendering(Call({}, [Wanted("b", binary=True), Wanted("a", binary=True)]))
    body = rendering(Outcome("m", "1", "i", "j", outputs[::-1]))
    assert body[rendering.json_length :] == b"\x01\0\0\0x" + np.array([1, 2]).tobytes()
    mixed = Rendering(Call({}, [Wanted("a"), Wanted("b", binary=True)]))
    body = mixed(Outcome("m", "1", "i", "j", outputs))
    assert [out.get("data") for out in json.loads(body[: mixed.json_length])["outputs"]] == [[1, 2], None]
