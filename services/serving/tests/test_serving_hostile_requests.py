"""Whatever is asked, and however: no answer is a failure of ours, memory is bounded and neighbours are answered."""

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from serving_cases import inputs
from serving_child import Child, child
from serving_edge import PATH
from serving_requests import Request, Wire, mutated, requests

from tidemill_testkit.peers import PeerError, peer

SCHEMATHESIS = "schemathesis==4.32.5"
GOOD: Request = (
    "POST", PATH, [("content-type", "application/json")], json.dumps({"inputs": inputs()}).encode(),
)  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[Child]:
    with child() as started:
        yield started


def hammer(server: Child, examples: int, changed: int) -> Counter[int]:
    """Ask generated and mutated requests; the statuses."""
    wire, neighbour, found = Wire(server.port), Wire(server.port), Counter[int]()

    @settings(max_examples=examples, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(request=requests)
    def ask(request: Request) -> None:
        status = wire.ask(request)
        found[status] += 1
        assert status < 500, request

    with closing(wire), closing(neighbour):
        ask()
        for request in mutated(changed, seed=7):
            found[status := wire.ask(request)] += 1
            assert status < 500, request
        assert neighbour.ask(GOOD) == 200
    assert server.is_alive
    return found


def test_a_thousand_made_requests_never_fail(server: Child) -> None:
    found = hammer(server, 300, 700)
    assert found[200] > 10
    assert found[400] > 100
    assert found[422] > 30


@pytest.mark.parametrize("depth", [500, 5_000, 500_000])
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"inputs":', '{"inputs":[{"data":['])
def test_deep_json_is_refused(server: Child, depth: int, opening: str) -> None:
    wire = Wire(server.port)
    for path in (PATH, f"/v2/models/{PATH.rpartition('/')[2]}/infer"):
        body = (opening * depth).encode()[:1_000_000]
        assert wire.ask(("POST", path, [("content-type", "application/json")], body)) in {400, 413}
    wire.close()
    assert server.is_alive


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_eighty_thousand_made_requests_never_fail(server: Child) -> None:
    before = server.memory_mib
    found = hammer(server, 20_000, 60_000)
    assert found.total() >= 80_000
    assert server.memory_mib < before + 64


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_twenty_thousand_requests_from_the_document_never_fail(server: Child, tmp_path: Path) -> None:
    try:
        python = peer("schemathesis", SCHEMATHESIS)
    except PeerError as error:
        pytest.skip(f"{SCHEMATHESIS} cannot be installed: {error}")
    command = [
        str(python.with_name("schemathesis")), "run", f"http://127.0.0.1:{server.port}/openapi.json",
        "--checks", "not_a_server_error", "--phases", "coverage,fuzzing", "--max-examples", "1500", "--seed", "7",
        "--no-shrink", "--continue-on-failure", "--suppress-health-check", "all",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1700, check=False)
    (tmp_path / "out").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    assert server.is_alive
