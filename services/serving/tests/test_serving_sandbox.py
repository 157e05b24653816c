"""Models are fetched, examined in a disposable child, kept on the disk and opened once."""

from pathlib import Path

import pytest
from serving_cases import linear, picky

from tidemill_runtime.artifacts import ArtifactCorrupt, ArtifactMissing, Artifacts
from tidemill_serving.artifacts import Models, SandboxLimits
from tidemill_serving.onnx import Scorer
from tidemill_serving.onnx.sandbox import Nursery
from tidemill_serving.onnx.verdicts import Examiner

pytestmark = pytest.mark.anyio
FEATURES = ["a", "b"]
LIMITS = SandboxLimits(cpu_s=3, wall_s=20, memory_mib=512)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


def written(tmp_path: Path, data: bytes) -> Path:
    file = tmp_path / "model.onnx"
    file.write_bytes(data)
    return file


def opener(artifacts: Artifacts, folder: Path, limits: SandboxLimits = LIMITS) -> Models:
    return Models(artifacts, folder, Examiner(folder.with_name("verdicts"), limits))


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def damage(file: Path) -> None:
    file.write_bytes(b"damaged")


async def test_a_good_model_passes(tmp_path: Path) -> None:
    async with Nursery(LIMITS) as nursery:
        await nursery.examine(written(tmp_path, linear(FEATURES)), FEATURES)


async def test_a_model_is_examined_once_and_then_opened_from_the_disk(tmp_path: Path, folder: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    digest = artifacts.put(linear(FEATURES))
    first = await opener(artifacts, folder).open(digest, FEATURES)
    artifacts.put(b"something else")
    nowhere = Artifacts(tmp_path / "nowhere")
    never = SandboxLimits(cpu_s=1, wall_s=0.0)
    again = await opener(nowhere, folder, never).open(digest, FEATURES)
    assert isinstance(first, Scorer)
    assert again.width == 2


async def test_a_damaged_copy_is_fetched_again_and_a_damaged_artifact_refused(tmp_path: Path, folder: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    digest = artifacts.put(linear(FEATURES))
    await opener(artifacts, folder).open(digest, FEATURES)
    damage(folder / f"{digest}.onnx")
    await opener(artifacts, folder).open(digest, FEATURES)

    damage(Path(artifacts.path(digest)))
    opener(artifacts, folder).keep([])
    with pytest.raises(ArtifactCorrupt):
        await opener(artifacts, folder).open(digest, FEATURES)
    with pytest.raises(ArtifactMissing):
        await opener(artifacts, folder).open("0" * 64, FEATURES)


async def test_an_open_model_is_shared_and_others_are_forgotten(tmp_path: Path, folder: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    models = opener(artifacts, folder)
    one, two = artifacts.put(linear(FEATURES)), artifacts.put(linear(FEATURES, bias=1.0))
    opened = await models.open(one, FEATURES)
    assert await models.open(one, FEATURES) is opened
    await models.open(two, FEATURES)
    models.keep([two])
    assert names(folder) == {f"{two}.onnx"}


def test_a_model_that_fails_on_some_rows_passes_and_is_caught_when_it_answers() -> None:
    assert Scorer(picky(2, 12345.0), 2).width == 2
