"""Made requests, from nearly good to hopeless, and a plain connection that sends them and reads what comes."""

import json
import random
import socket
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st
from serving_cases import inputs
from serving_edge import NAMES, PATH, SPEC

INFER = f"/v2/models/{SPEC.name}/infer"
Request = tuple[str, str, list[tuple[str, str]], bytes]
"""Method, target, headers, body."""

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20), st.sampled_from(["AA", "2013-01-01T10:00:00Z", "", "\x00", "\ud7ff", "é"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional={name: values | st.just(good) for name, good in {**inputs(), "seats": 3, "cargo": True}.items()},
)
inline = st.dictionaries(st.sampled_from([*NAMES, "by-carrier.x", ""]), scalars, max_size=3)
instance = st.fixed_dictionaries(
    {"inputs": fields | values},
    optional={"id": scalars, "time": scalars, "features": inline | values, "explain": values, "more": values},
)
predict = st.one_of(instance, st.fixed_dictionaries({"instances": st.lists(instance, max_size=3) | values}), values)
tensor = st.fixed_dictionaries(
    {
        "name": st.just("features") | scalars,
        "datatype": st.sampled_from(["FP32", "FP64", "INT64", "BYTES", "fp32", ""]) | scalars,
        "shape": st.just([1, len(NAMES)]) | st.lists(st.integers(-3, 2**63), max_size=3) | values,
        "data": st.lists(st.floats(width=32) | st.integers(), min_size=len(NAMES), max_size=len(NAMES)) | values,
    },
    optional={"parameters": values, "more": values},
)
infer = st.one_of(
    st.fixed_dictionaries(
        {"inputs": st.lists(tensor, max_size=2) | values},
        optional={"id": scalars, "outputs": values, "parameters": values, "model_name": scalars},
    ),
    values,
)
visible = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=40)
headers = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(["text/plain", "application/json; charset=utf-16", "application/octet-stream"])
        | visible,
        "idempotency-key": visible, "prefer": visible, "traceparent": visible, "accept": visible,
        "tidemill-minimum-watermark": st.sampled_from(["x", "1e9", "", "-", "9" * 40]),
        "tidemill-deadline-ms": st.sampled_from(["x", "-1", "1e3", "", "9" * 40]),
        "inference-header-content-length": st.sampled_from(["0", "5", "-1", "x", "9" * 30]),
        "content-encoding": st.sampled_from(["gzip", "deflate", "br", "identity", ""]),
    },
)  # fmt: skip
word = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=20)
fixed = [
    "/v2", "/v1/status", "/metrics", "/v2/health/ready", "/v2/repository/index", INFER, PATH, f"{PATH}?explain=true",
    f"{PATH}?explain=x&explain=y",
]  # fmt: skip
targets = st.one_of(
    word.map(lambda text: f"/v1/predict/{text}"),
    word.map(lambda text: f"/v2/models/{text}/infer"),
    word.map(lambda text: f"/v2/models/{SPEC.name}/versions/{text}/infer"),
    word.map(lambda text: f"/{text}"),
    st.sampled_from(fixed),
)


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


bodies = predict.map(_dumped) | infer.map(_dumped) | st.binary(max_size=60)
asked = st.sampled_from([PATH, f"{PATH}?explain=true"])
usual = st.tuples(st.just("POST"), asked, headers, predict.map(_dumped)) | st.tuples(
    st.just("POST"), st.just(INFER), headers, infer.map(_dumped)
)
odd = st.tuples(st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"]), targets, headers, bodies)
requests: st.SearchStrategy[Request] = st.one_of(usual, usual, odd).map(
    lambda found: (found[0], found[1], list({"content-type": "application/json", **found[2]}.items()), found[3])
)


def mutated(count: int, seed: int) -> Iterator[Request]:
    """Good bodies with some bytes changed, left out, doubled or replaced by what JSON is made of."""
    rows = {"inputs": [{"name": "features", "datatype": "FP32", "shape": [1, len(NAMES)], "data": [0.5] * len(NAMES)}]}
    good = [(PATH, _dumped({"inputs": inputs()})), (INFER, _dumped(rows)),
            (PATH, _dumped({"instances": [{"id": "a", "inputs": inputs()}, {"inputs": inputs()}]}))]  # fmt: skip
    pieces = [
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"\\",
        b"1e999",
        b"-",
        b"NaN",
        b"\xff",
        b"\x00",
        b"null",
        b"9" * 30,
    ]
    dice = random.Random(seed)
    for _ in range(count):
        path, body = dice.choice(good)
        data = bytearray(body)
        for _ in range(dice.randint(1, 3)):
            at, size = dice.randrange(len(data)), dice.randint(0, 6)
            data[at : at + size] = dice.choice([dice.choice(pieces), dice.randbytes(size), bytes(data[at : at + 20])])
        yield "POST", path, [("content-type", "application/json")], bytes(data) or b" "


class Wire:
    """A kept connection, opened again where the server closed it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._data = b""

    def ask(self, request: Request) -> int:
        """The status of the answer, which must be a whole one."""
        method, target, found, body = request
        lines = [f"{method} {target} HTTP/1.1", "host: x", f"content-length: {len(body)}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in found)])
        return self.send(head.encode("latin-1") + b"\r\n\r\n" + body, has_body=method != "HEAD")

    def send(self, raw: bytes, *, has_body: bool = True) -> int:
        """The status of the answer to some bytes."""
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            self._data = b""
        try:
            self._socket.sendall(raw)
            return self._read(has_body=has_body)
        except ConnectionError:
            self.close()
            return self.send(raw, has_body=has_body) if not raw.startswith(b"again") else 0

    def _read(self, *, has_body: bool) -> int:
        while (end := self._data.find(b"\r\n\r\n")) < 0:
            self._more()
        lines = self._data[:end].decode("latin-1").lower().split("\r\n")
        told: dict[str, Any] = dict(line.partition(": ")[::2] for line in lines[1:])
        whole = end + 4 + (int(told.get("content-length", 0)) if has_body else 0)
        while len(self._data) < whole:
            self._more()
        self._data = self._data[whole:]
        if told.get("connection") == "close":
            self.close()
        return int(lines[0].split()[1])

    def _more(self) -> None:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            raise ConnectionResetError
        self._data += data

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
