"""Services behind one address that answer as they are told, and the command line against them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tidemill.cli.main import build
from tidemill.client.transport import SERVICES
from tidemill_contracts.pipeline import PipelineSpec

DIGEST = "0" * 64
RELEASE = {
    "pipeline": "p", "epoch": 2, "members": [{"name": "m", "model": DIGEST, "version": 3}], "views": {},
    "features": [], "spec": DIGEST, "policy": DIGEST, "at_us": 5_000_000, "reason": {"kind": "hand", "detail": "[why]"},
}  # fmt: skip


class Services:
    """All services behind one address: answers by method and path, and what was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], tuple[int, Any]] = {}
        self.asked: list[tuple[str, Any]] = []

    def on(self, method: str, path: str, body: object, status: int = 200) -> None:
        self.answers[method, path] = status, body

    def stands(self, name: str, spec: PipelineSpec) -> None:
        """A pipeline with its file, and a release that reads the same versions of views."""
        views = {view: spec.view_version(view) for view in spec.views}
        about = {"pipeline": name, "revision": 1, "digest": DIGEST, "frozen": False, "epoch": 1}
        self.on("GET", f"/v1/pipelines/{name}", about | {"spec": spec.model_dump(mode="json")})
        self.on("GET", f"/v1/pipelines/{name}/champion", RELEASE | {"views": views})

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        sent: Any = json.loads(body) if body[:1] in {b"{", b"["} else body or None
        self.asked.append((path, sent))
        if path.startswith("/v1/events/"):
            places = [{"id": e["id"], "topic": "t", "partition": 0, "offset": i} for i, e in enumerate(sent)]
            return 202, {"accepted": places}
        return self.answers.get(
            (method, path.partition("?")[0]), (404, {"status": 404, "detail": "there is no such thing"})
        )


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    """Services of a program; ends with the block."""
    known = Services()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, answer = known.answer(self.command, self.path, body)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_POST = do_PUT = handle_any  # noqa: N815 - the base class looks for these

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in SERVICES:
        monkeypatch.setenv(f"TIDEMILL_URL_{name.upper()}", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("COLUMNS", "200")
    yield known
    server.shutdown()
    server.server_close()
    thread.join()


def run(*arguments: str | Path, text: str | None = None) -> Result:
    return CliRunner().invoke(build(), [str(each) for each in arguments], input=text)
