"""MLServer with the same ONNX file, in an environment of its own under `build/peers`."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from _stack import until

from tidemill.stack.process import free_port

VERSION = "1.7.1"
ENVIRONMENT = Path(__file__).parent.parent / "build" / "peers" / "mlserver"
_RUNTIME = """
import onnxruntime
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Onnx(MLModel):
    async def load(self):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self.settings.parameters.uri, options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        return True

    async def predict(self, payload):
        rows = NumpyCodec.decode_input(payload.inputs[0])
        (scores,) = self._session.run(None, {self._input: rows})
        outputs = [NumpyCodec.encode_output("probability", scores)]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
"""


def python() -> Path:
    """The interpreter of an environment with MLServer, which is made where there is none."""
    found = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "ready").exists():
        uv = str(Path(sys.executable).with_name("uv"))  # without this workspace's overrides
        subprocess.run(
            [uv, "--no-config", "venv", "--quiet", "--clear", "--python", sys.executable, str(ENVIRONMENT)], check=True
        )
        wanted = [f"mlserver=={VERSION}", "onnxruntime", "uvloop<0.22"]
        subprocess.run([uv, "--no-config", "pip", "install", "--quiet", "--python", str(found), *wanted], check=True)
        (ENVIRONMENT / "ready").touch()
    return found


@contextmanager
def mlserver(model: bytes, *, grpc_port: int | None = None) -> Iterator[str]:
    """The URL of the infer route of a server without worker processes, which for one core is its fastest way."""
    with tempfile.TemporaryDirectory(prefix="mlserver") as name:
        folder, port = Path(name), free_port()
        (folder / "model.onnx").write_bytes(model)
        (folder / "runtime.py").write_text(_RUNTIME)
        settings = {
            "http_port": port, "grpc_port": grpc_port or free_port(), "metrics_port": free_port(), "host": "127.0.0.1",
            "parallel_workers": 0, "debug": False, "use_structured_logging": False,
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        parameters = {"uri": str(folder / "model.onnx")}
        found = {"name": "plain", "implementation": "runtime.Onnx", "parameters": parameters}
        (folder / "model-settings.json").write_text(json.dumps(found))
        command = [str(python().with_name("mlserver")), "start", str(folder)]
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        with (folder / "log").open("wb") as log:
            child = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            yield f"http://127.0.0.1:{port}/v2/models/plain/infer"
        finally:
            child.terminate()
            child.wait(20)


async def ready(url: str) -> None:
    """Until the model answers that it is ready."""
    path = url.removesuffix("/infer") + "/ready"
    async with httpx.AsyncClient(timeout=5) as client:

        async def answers() -> bool:
            try:
                return (await client.get(path)).status_code == 200
            except httpx.TransportError:
                return False

        await until(answers, "MLServer is ready", deadline_s=180)
