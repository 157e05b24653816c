"""The Open Inference Protocol as its own clients speak it: tritonclient, its asynchronous twin, and kserve's."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving_cases import HOUR_US, T0_US, linear, pipeline, released
from serving_stack import Stack, open_stack

from tidemill_testkit.peers import PeerError, peer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]
CLIENTS = ("tritonclient[grpc,http]==2.73.0", "kserve==0.21.0")
ALL, TRITON = ("triton", "triton aio", "kserve"), ("triton", "triton aio")
SPEC = pipeline()
NAMES = SPEC.feature_names()
ROW = [0.5 * place for place in range(len(NAMES))]


class Clients:
    """The clients in their environment, pointed at one server."""

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self._process, self._address = process, url.removeprefix("http://")

    def tell(self, client: str, do: str, **step: object) -> dict[str, Any]:
        """{answer} or {error, message, status}."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps({"client": client, "do": do, "address": self._address, **step}) + "\n")
        stdin.flush()
        line = stdout.readline()
        assert line, "the clients' process has ended"
        found: dict[str, Any] = json.loads(line)
        return found

    def do(self, client: str, do: str, **step: object) -> Any:  # noqa: ANN401 - JSON
        """What the client returns."""
        found = self.tell(client, do, **step)
        assert "answer" in found, (client, do, found)
        return found["answer"]


@contextmanager
def clients(url: str) -> Iterator[Clients]:
    """Skips the test where the clients cannot be installed."""
    try:
        python = peer("inference-clients", *CLIENTS)
    except PeerError as error:
        pytest.skip(f"{CLIENTS} cannot be installed: {error}")
    command = [str(python), str(Path(__file__).with_name("inference_driver.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Clients(process, url)
        finally:
            process.kill()


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"i-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        await opened.until_status(ready=True)
        yield opened


async def test_what_the_clients_ask_is_answered(stack: Stack) -> None:
    with clients(stack.process.url) as asked:
        before_a_release(asked)
        digest = stack.artifacts.put(linear(NAMES))
        await stack.vector("by-carrier", "AA", [12.5, 3.0])
        await stack.watermark(T0_US + HOUR_US)
        await stack.release(released(SPEC, 1, digest))
        await stack.until_status(epoch=1)
        health(asked)
        metadata(asked)
        await inference(stack, asked)
        refusals(asked)


def before_a_release(asked: Clients) -> None:
    for client in ALL:
        assert asked.do(client, "live") is True
        assert asked.do(client, "model ready", model=SPEC.name) is False
        assert asked.tell(client, "infer", model=SPEC.name, rows=[ROW])["status"] == "404"


def health(asked: Clients) -> None:
    for client in ALL:
        assert asked.do(client, "live") is True
        assert asked.do(client, "ready") is True
        assert asked.do(client, "model ready", model=SPEC.name) is True
        assert asked.do(client, "model ready", model="nothing") is False
    for client in TRITON:
        assert asked.do(client, "model ready", model=SPEC.name, version="1") is True
        assert asked.do(client, "model ready", model=SPEC.name, version="2") is False


def metadata(asked: Clients) -> None:
    for client in TRITON:
        assert asked.do(client, "server")["name"] == "tidemill"
        found = asked.do(client, "metadata", model=SPEC.name)
        assert (found["name"], found["versions"]) == (SPEC.name, ["1"])
        assert found["inputs"] == [{"name": "features", "datatype": "FP32", "shape": [-1, len(NAMES)]}]
        assert found["outputs"] == [{"name": "probability", "datatype": "FP32", "shape": [-1]}]


async def inference(stack: Stack, asked: Clients) -> None:
    tensor = {"name": "features", "shape": [2, len(NAMES)], "datatype": "FP32", "data": [ROW, ROW[::-1]]}
    path = f"/v2/models/{SPEC.name}/infer"
    expected = (await stack.client.post(path, json={"inputs": [tensor]})).json()["outputs"][0]["data"]
    # JSON without a content type, which is what tritonclient sends.
    bare = await stack.client.post(path, content=json.dumps({"inputs": [tensor]}).encode())
    assert (bare.status_code, bare.json().get("outputs", [{}])[0].get("data")) == (200, expected)
    for client in ALL:
        for step in (
            {}, {"outputs": ["probability"]}, {"id": "mine"}, {"datatype": "FP64"}, {"binary": True},
            {"binary": True, "datatype": "FP64", "outputs": ["probability"]},
        ):  # fmt: skip
            found = asked.do(client, "infer", model=SPEC.name, rows=[ROW, ROW[::-1]], **step)
            assert found["values"] == pytest.approx(expected, rel=1e-6), (client, step)
            assert found["model_name"] == SPEC.name
            assert found["model_version"] == ("1" if client in TRITON else None), "kserve's client does not read it"
            assert found["id"] == "mine" or "id" not in step
    for client in TRITON:
        assert asked.do(client, "infer", model=SPEC.name, rows=[ROW], version="1")["model_version"] == "1"
        for packing in ("gzip", "deflate"):
            step = {"packing": packing, "binary": True, "outputs": ["probability"]}
            found = asked.do(client, "infer", model=SPEC.name, rows=[ROW, ROW[::-1]] * 200, **step)
            assert found["values"] == pytest.approx(expected * 200, rel=1e-6)
    other = await stack.client.post(path, json={"inputs": [tensor], "model_name": "nothing"})
    assert (other.status_code, list(other.json())) == (400, ["error"])


def refusals(asked: Clients) -> None:
    """Of a 4xx each client makes its own error with the text of `error`."""
    wrong: dict[str, tuple[dict[str, object], str, str]] = {
        "another output": ({"outputs": ["nothing"]}, "400", "probability"),
        "another input": ({"input": "nothing"}, "400", "features"),
        "too short": ({"rows": [ROW[:-1]]}, "400", ""),
        "too long": ({"rows": [[*ROW, 1.0]]}, "400", ""),
        "one dimension": ({"rows": ROW}, "400", ""),
        "no rows": ({"rows": [[]]}, "400", ""),
        "another output in binary": ({"outputs": ["nothing"], "binary": True}, "400", "probability"),
        "too short in binary": ({"rows": [ROW[:-1]], "binary": True}, "400", "shape"),
        "another model": ({"model": "nothing"}, "404", "no such model"),
    }
    for client in ALL:
        for name, (step, status, word) in wrong.items():
            found = asked.tell(client, "infer", **{"model": SPEC.name, "rows": [ROW], **step})
            assert found.get("status") == status, (client, name, found)
            assert word in found["message"], (client, name, found)
            assert "exception occurred in the client" not in found["message"], (client, name, found)
    for client in TRITON:
        assert asked.tell(client, "infer", model=SPEC.name, rows=[ROW], version="2")["status"] == "404"
        assert asked.tell(client, "metadata", model="nothing")["status"] == "404"
