"""An object store in the place of a directory: artifacts and the archive, against a server that speaks S3."""

import hashlib
import subprocess
from collections.abc import Iterator

import httpx
import pytest

from tidemill.stack.process import free_port
from tidemill_ingestion.archive import EventTable
from tidemill_ingestion.domain.archive import Move, Row
from tidemill_runtime.archive import archive_path, archived_positions, read_events
from tidemill_runtime.artifacts import ArtifactCorrupt, ArtifactMissing, Artifacts
from tidemill_runtime.errors import Fenced
from tidemill_testkit.peers import PeerError, peer
from tidemill_testkit.waiting import until_sync

SERVER = "moto[server]==5.2.5"
DATA = b"a model" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code < httpx.codes.INTERNAL_SERVER_ERROR
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an object store with the bucket `mill`."""
    try:
        python = peer("moto", SERVER)
    except PeerError as error:
        pytest.skip(f"the S3 server cannot be installed: {error}")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(python.parent / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_sync(lambda: _answers(url), "an answer of the S3 server", timeout_s=60)
        httpx.put(f"{url}/mill", trust_env=False).raise_for_status()
        yield url
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture
def place(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A prefix of its own, found as everywhere with this protocol: by the environment."""
    known = {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true",
    }  # fmt: skip
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    return f"s3://mill/{request.node.name}"


def test_artifacts_come_back_by_their_digest(place: str) -> None:
    """Another client finds them too, and removing what is not there is no error."""
    store = Artifacts(place)
    assert not store.has(DIGEST)
    with pytest.raises(ArtifactMissing):
        store.get(DIGEST)
    assert store.put(DATA) == store.put(DATA) == DIGEST
    assert Artifacts(place).get(DIGEST) == DATA
    assert store.path(DIGEST) == f"{place}/sha256/{DIGEST[:2]}/{DIGEST}"
    store.remove(DIGEST)
    store.remove(DIGEST)
    assert not store.has(DIGEST)


def test_bytes_that_were_changed_are_refused(place: str, server: str) -> None:
    """Somebody else wrote under the name of a digest."""
    store = Artifacts(place)
    store.put(DATA)
    object_url = f"{server}/{store.path(DIGEST).removeprefix('s3://')}"
    httpx.put(object_url, content=DATA[:-1], trust_env=False).raise_for_status()
    with pytest.raises(ArtifactCorrupt):
        store.get(DIGEST)


def _rows(first: int, count: int) -> list[Row]:
    return [
        Row(
            partition=0, seq=number, offset=2 * number, raw_offset=number, id=f"e{number}", event_us=number,
            ingest_us=number, key="k", body="{}", outcome="applied",
        )
        for number in range(first, first + count)
    ]  # fmt: skip


def test_the_archive_appends_once_and_fences_the_slower_writer(place: str) -> None:
    """Rows and position in one commit; who still believes in the old position is refused and adds nothing."""
    path = archive_path(place, "flights")
    ours, theirs = EventTable(path), EventTable(path)
    ours.append(_rows(0, 3), [Move("events/0", None, 3)])
    assert theirs.positions(["events/0"]) == {"events/0": 3}
    theirs.append(_rows(3, 2), [Move("events/0", 3, 5)])
    with pytest.raises(Fenced):
        ours.append(_rows(3, 2), [Move("events/0", 3, 5)])
    assert archived_positions(path) == {0: 5}
    assert read_events(path, {0: 5})["id"].to_pylist() == ["e0", "e1", "e2", "e3", "e4"]
