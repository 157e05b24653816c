import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from cli_world import DIGEST, Services, run, serving

MADE = {"model": "pair", "version": 2, "digest": DIGEST, "size": 4, "created": True}
INDEX = [
    {"name": "pair", "version": "1", "state": "READY", "reason": ""},
    {"name": "pair", "version": "2", "state": "READY", "reason": ""},
]


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    with serving(monkeypatch) as known:
        yield known


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tmp_path / "model.onnx"
    made.write_bytes(b"\x08\x08\x12\x01")
    return made


def test_the_bytes_are_sent_as_they_are_and_serving_is_waited_for(services: Services, model: Path) -> None:
    services.on("POST", "/v1/models/pair", MADE, 201)
    services.on("POST", "/v2/repository/index", INDEX)
    done = run("import", model, "--name", "pair", "--version", "2", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, MADE | {"state": "READY", "reason": ""})
    assert services.asked[0] == ("/v1/models/pair?version=2", model.read_bytes())
    assert "version 2" in run("import", model, "--name", "pair").stdout


def test_a_model_that_serving_refuses_is_told_with_the_reason(services: Services, model: Path) -> None:
    services.on("POST", "/v1/models/pair", MADE)
    services.on("POST", "/v2/repository/index", [INDEX[1] | {"state": "UNAVAILABLE", "reason": "it [hangs]"}])
    done = run("import", model, "--name", "pair")
    assert (done.exit_code, "unavailable it [hangs]" in done.stdout) == (1, True)
    assert run("import", model, "--name", "pair", "--no-wait").exit_code == 0


def test_a_file_that_is_not_there_is_wrong_usage(services: Services, tmp_path: Path) -> None:
    assert run("import", tmp_path / "nothing.onnx", "--name", "pair").exit_code == 2
    assert services.asked == []
