"""The Open Inference Protocol as its own clients speak it: tritonclient, its asynchronous twin, and kserve's."""

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from serving_cases import HOUR_US, T0_US, integer_division, linear, pipeline, released
from serving_models import two_and_two
from serving_stack import Stack, free_port, open_stack, until

from tidemill_contracts.events import ModelAnswered, ModelImported, decode, encode
from tidemill_contracts.topics import topic
from tidemill_serving.api.rpc.calls import INFERENCE
from tidemill_testkit.peers import PeerError, peer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]
CLIENTS = ("tritonclient[grpc,http]==2.73.0", "kserve==0.21.0")
ALL, TRITON = ("triton", "triton aio", "kserve"), ("triton", "triton aio")
RPC, TRITON_RPC = ("triton grpc", "triton grpc aio", "kserve grpc"), ("triton grpc", "triton grpc aio")
OWN = frozenset({*TRITON_RPC, "health", "fields"})
"""In a process of their own: the messages of two clients do not go together."""
PAIR = {
    "inputs": {"a": ["FP32", [[1, 2, 3]]], "b": ["FP32", [1, 1, 1]], "names": ["BYTES", ["x", "é"]]},
    "outputs": ["sum", "label"],
}
SPEC = pipeline()
NAMES = SPEC.feature_names()
ROW = [0.5 * place for place in range(len(NAMES))]


class Clients:
    """The clients in their environment, in two processes, pointed at one server."""

    def __init__(self, python: Path, url: str, rpc: str) -> None:
        self._python, self._address, self._rpc = python, url.removeprefix("http://"), rpc
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def _process(self, client: str) -> "subprocess.Popen[str]":
        name = "inference_rpc_driver.py" if client in OWN else "inference_driver.py"
        if name not in self._processes:
            command = [str(self._python), str(Path(__file__).with_name(name))]
            self._processes[name] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self._processes[name]

    def end(self) -> None:
        """End the processes."""
        for process in self._processes.values():
            with process:
                process.kill()

    def tell(self, client: str, do: str, **step: object) -> dict[str, Any]:
        """{answer} or {error, message, status}."""
        process = self._process(client)
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        said = {"client": client, "do": do, "address": self._address, "rpc": self._rpc, **step}
        stdin.write(json.dumps(said) + "\n")
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
def clients(url: str, rpc: str) -> Iterator[Clients]:
    """Skips the test where the clients cannot be installed."""
    try:
        python = peer("inference-clients", *CLIENTS)
    except PeerError as error:
        pytest.skip(f"{CLIENTS} cannot be installed: {error}")
    opened = Clients(python, url, rpc)
    try:
        yield opened
    finally:
        opened.end()


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    more = {"TIDEMILL_SERVING_GRPC_PORT": str(free_port())}
    async with open_stack(kafka_bootstrap, f"i-{topic_prefix[-8:]}", tmp_path, SPEC, **more) as opened:
        await opened.until_status(ready=True)
        yield opened


async def test_what_the_clients_ask_is_answered(stack: Stack) -> None:
    rpc = f"127.0.0.1:{stack.process.environment['TIDEMILL_SERVING_GRPC_PORT']}"
    with clients(stack.process.url, rpc) as asked:
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
        over_grpc(asked)
        await imported(stack, asked)


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
        steps: list[dict[str, Any]] = [
            {}, {"outputs": ["probability"]}, {"id": "mine"}, {"datatype": "FP64"}, {"binary": True},
            {"binary": True, "datatype": "FP64", "outputs": ["probability"]},
        ]  # fmt: skip
        for step in steps:
            found = asked.do(client, "infer", model=SPEC.name, rows=[ROW, ROW[::-1]], **step)
            assert found["values"] == pytest.approx(expected, rel=1e-6), (client, step)
            assert found["model_name"] == SPEC.name
            assert found["model_version"] == ("1" if client in TRITON else None), "kserve's client does not read it"
            assert found["id"] == "mine" or "id" not in step
    for client in TRITON:
        assert asked.do(client, "infer", model=SPEC.name, rows=[ROW], version="1")["model_version"] == "1"
        for packing in ("gzip", "deflate"):
            packed: dict[str, Any] = {"packing": packing, "binary": True, "outputs": ["probability"]}
            found = asked.do(client, "infer", model=SPEC.name, rows=[ROW, ROW[::-1]] * 200, **packed)
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


def our_fields() -> Iterator[list[Any]]:
    """As the driver's `fields`, of the messages that are made here."""
    waiting = [("inference", message) for message in INFERENCE.file.message_type]
    while waiting:
        place, message = waiting.pop()
        name = f"{place}.{message.name}"
        waiting += [(name, nested) for nested in message.nested_type]
        yield from ([name, f.name, f.number, f.type, f.label == f.LABEL_REPEATED] for f in message.field)


def over_grpc(asked: Clients) -> None:
    """The same answers and refusals as over REST."""
    theirs = asked.do("fields", "")
    assert [field for field in our_fields() if field not in theirs] == []
    expected = asked.do("triton", "infer", model=SPEC.name, rows=[ROW, ROW[::-1]])["values"]
    assert (
        asked.do("health", "") == asked.do("health", "", service="inference.GRPCInferenceService") == [[8, 1], [8, 1]]
    )
    assert asked.tell("health", "", service="other")["status"] == "NOT_FOUND"
    for client in RPC:
        assert asked.do(client, "live") is asked.do(client, "ready") is True
        assert asked.do(client, "model ready", model=SPEC.name) is True
        assert asked.do(client, "model ready", model="nothing") is False
        steps: list[dict[str, Any]] = [{}, {"outputs": ["probability"]}, {"id": "mine"}, {"datatype": "FP64"}]
        for step in steps:
            found = asked.do(client, "infer", model=SPEC.name, rows=[ROW, ROW[::-1]], **step)
            assert found["values"] == pytest.approx(expected, rel=1e-6), (client, step)
            assert (found["model_name"], found["model_version"] or "1") == (SPEC.name, "1")
            assert found["id"] == "mine" or "id" not in step
    kept = asked.do("kserve grpc", "infer", model=SPEC.name, rows=[ROW, ROW[::-1]], binary=False)
    assert kept["values"] == pytest.approx(expected, rel=1e-6), "values in their typed fields"
    wrong: dict[str, tuple[dict[str, Any], str]] = {
        "another output": ({"outputs": ["nothing"]}, "INVALID_ARGUMENT"),
        "another input": ({"input": "nothing"}, "INVALID_ARGUMENT"),
        "too short": ({"rows": [ROW[:-1]]}, "INVALID_ARGUMENT"),
        "another model": ({"model": "nothing"}, "NOT_FOUND"),
    }
    for client in RPC:
        for name, (change, status) in wrong.items():
            found = asked.tell(client, "infer", **{"model": SPEC.name, "rows": [ROW], **change})
            assert found.get("status") == status, (client, name, found)
    for client in TRITON_RPC:
        assert asked.tell(client, "infer", model=SPEC.name, rows=[ROW], version="2")["status"] == "NOT_FOUND"
        for packing in ("gzip", "deflate"):
            found = asked.do(client, "infer", model=SPEC.name, rows=[ROW, ROW[::-1]] * 200, packing=packing)
            assert found["values"] == pytest.approx(expected * 200, rel=1e-6)
        assert asked.do(client, "server")["name"] == "tidemill"
        assert asked.do(client, "metadata", model=SPEC.name)["inputs"][0]["shape"] == ["-1", str(len(NAMES))]
    streamed = asked.do("triton grpc", "stream", models=[SPEC.name, "nothing", SPEC.name], rows=[ROW])
    assert [found if isinstance(found, str) else found["id"] for found in streamed][::2] == ["0", "2"]
    assert "no such model" in streamed[1]
    assert streamed[0]["values"] == pytest.approx(expected[:1], rel=1e-6)


async def imported(stack: Stack, asked: Clients) -> None:
    """A model that the registry has announced is served, and switched off and on through the log."""
    name = topic("models", prefix=stack.prefix)
    for version, data in ((1, two_and_two()), (2, two_and_two()), (7, integer_division(4))):
        digest = stack.artifacts.put(data)
        event = ModelImported(model="pair", version=version, digest=digest, size=len(data))
        envelope = encode(event, id=f"import-{version}", source="test", time_us=T0_US)
        await stack.write(name, envelope, key=f"pair@{version}")

    def states() -> dict[str, str]:
        return {each["version"]: each["state"] for each in asked.do("triton", "index") if each["name"] == "pair"}

    wanted = {"1": "READY", "2": "READY", "7": "UNAVAILABLE"}
    await until(lambda: states() == wanted, "the imported models are open")
    assert {each["version"] for each in asked.do("triton grpc", "index")["models"] if each["name"] == "pair"} == set(
        wanted
    )
    for client in ("triton", *TRITON_RPC):
        assert asked.do(client, "ask", model="pair", **PAIR) == {"sum": [2, 3, 4], "label": ["x", "é"]}
        assert asked.do(client, "ask", model="pair", **PAIR | {"version": "1"})["sum"] == [2, 3, 4]
        assert asked.do(client, "metadata", model="pair")["versions"] == ["1", "2"]
        assert asked.do(client, "config", model="pair")
        assert asked.do(client, "stats", model="pair")["model_stats"]
        assert asked.do(client, "unload", model="pair") is None
        assert asked.do(client, "model ready", model="pair") is False
        assert set(states().values()) == {"UNAVAILABLE"}
        assert asked.do(client, "load", model="pair") is None
        assert asked.do(client, "model ready", model="pair") is True
        assert asked.tell(client, "load", model="nothing")["status"] in {"404", "NOT_FOUND"}
        assert asked.tell(client, "unload", model=SPEC.name)["status"] in {"400", "INVALID_ARGUMENT"}
    answered = stack.client.get("/v1/status")
    assert (await answered).status_code == 200

    async def logged() -> bool:
        found = [decode(envelope) for _, envelope in await stack.logged("inferences")]
        return len([event for event in found if isinstance(event, ModelAnswered)]) == 6

    await until(logged, "every answer of the imported model is in the topic")
