"""The last good releases on this disk: a damaged one is told from a good one, and the next older one answers."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from serving_cases import T0_US, inputs, linear, pipeline, released
from serving_stack import Stack, open_stack

from tidemill_serving.domain.releases import KEPT, Kept, KeptRelease, Swap
from tidemill_serving.store import Store

SPEC = pipeline()
NOWHERE = "127.0.0.1:1"


def flip(file: Path, place: int) -> bytes:
    """Change one bit of a file; returns what it was."""
    before = file.read_bytes()
    file.write_bytes(before[:place] + bytes([before[place] ^ 4]) + before[place + 1 :])
    return before


def kept(*epochs: int) -> Kept:
    return Kept(SPEC, [KeptRelease(released(SPEC, epoch, "a" * 64), SPEC) for epoch in epochs], [Swap(epochs[0], None)])


def test_a_changed_byte_anywhere_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    wanted = kept(5, 4, 3)
    store.save_releases(wanted)
    folder = tmp_path / "releases" / SPEC.name
    newest, about = max(folder.glob("*-*.json")), folder / "pipeline.json"
    for place in range(0, len(newest.read_bytes()), 97):
        before = flip(newest, place)
        (found,) = store.load_releases()
        assert [item.released.epoch for item in found.releases] == [4, 3]
        newest.write_bytes(before)
    before = flip(about, 100)
    (found,) = store.load_releases()
    assert [item.released.epoch for item in found.releases] == [5, 4, 3]
    assert found.spec == SPEC
    about.write_bytes(before)
    assert store.load_releases() == [wanted]


def test_only_the_last_are_kept_in_the_order_in_which_they_answered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    whole = kept(4, 3, 2, 1).releases
    for first in (3, 2, 1, 0):
        store.save_releases(Kept(SPEC, whole[first : first + KEPT], []))
    assert store.load_releases() == [Kept(SPEC, whole[:KEPT], [])]
    assert len(list((tmp_path / "releases" / SPEC.name).iterdir())) == KEPT + 1


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


@pytest.mark.anyio
@pytest.mark.timeout(200)
async def test_with_the_newest_damaged_and_everything_else_down_the_next_older_one_serves(stack: Stack) -> None:
    await stack.watermark(T0_US)
    for epoch in (1, 2, 3):
        digest = stack.artifacts.put(linear(SPEC.feature_names(), bias=epoch / 10))
        await stack.release(released(SPEC, epoch, digest))
        await stack.until_status(ready=True, epoch=epoch)
    stack.process.stop()
    folder = stack.folder / "state"
    releases = sorted((folder / "releases" / SPEC.name).glob("*-*.json"))
    flip(releases[-1], 200)
    for model in (folder / "models").glob(f"{digest}.onnx"):
        flip(model, 50)
    away = [Path(path) for path in (stack.folder / "artifacts",) if path.exists()]
    for path in away:
        os.rename(path, path.with_suffix(".away"))  # noqa: PTH104 - a folder
    environment = stack.process.environment
    bootstrap = environment["TIDEMILL_KAFKA"]
    environment["TIDEMILL_KAFKA"] = NOWHERE
    stack.process.start()
    await stack.until_status(ready=True, epoch=2)
    answer = (await stack.predict(inputs())).json()
    assert (answer["epoch"], answer["degraded"]) == (2, True)

    stack.process.stop()
    for path in away:
        os.rename(path.with_suffix(".away"), path)  # noqa: PTH104 - a folder
    environment["TIDEMILL_KAFKA"] = bootstrap
    stack.process.start()
    await stack.until_status(ready=True, epoch=3)
    assert not (await stack.predict(inputs())).json()["degraded"]
