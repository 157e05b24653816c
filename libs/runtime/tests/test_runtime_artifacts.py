import hashlib
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tidemill_runtime.artifacts import ArtifactCorrupt, ArtifactMissing, Artifacts
from tidemill_runtime.errors import Configuration

DATA = b"a model" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


def test_bytes_come_back_by_their_digest(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    assert not store.has(DIGEST)
    assert store.put(DATA) == store.put(DATA) == DIGEST
    assert store.has(DIGEST)
    assert store.get(DIGEST) == DATA
    assert Path(store.path(DIGEST)).read_bytes() == DATA
    assert Artifacts(str(tmp_path)).get(DIGEST) == DATA


def test_what_is_missing_or_was_changed_is_refused(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    with pytest.raises(ArtifactMissing):
        store.get(DIGEST)
    store.put(DATA)
    Path(store.path(DIGEST)).write_bytes(DATA[:-1])
    with pytest.raises(ArtifactCorrupt):
        store.get(DIGEST)


@pytest.mark.parametrize("digest", ["", "x" * 64, DIGEST[:-1], f"../{DIGEST}", DIGEST.upper(), f"{DIGEST}\n"])
def test_only_a_digest_is_a_name(tmp_path: Path, digest: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        Artifacts(tmp_path).get(digest)


def test_many_writers_of_the_same_bytes_leave_one_whole_file(tmp_path: Path) -> None:
    store = Artifacts(tmp_path)
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: store.put(DATA), range(64))) == {DIGEST}
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [DIGEST]


def test_other_places_are_refused_and_a_bucket_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Configuration, match="directory or under an s3"):
        Artifacts("gs://bucket/x")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(Configuration, match="pyarrow"):
        Artifacts("s3://bucket/x")
