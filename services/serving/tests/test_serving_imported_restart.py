"""Imported models after a start alone: what was open is opened from the disk, what was off stays off."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from serving_cases import T0_US, integer_division
from serving_edge import MemoryLog
from serving_models import root, two_and_two
from serving_stack import until

from tidemill_contracts.events import ModelImported, ModelSwitched, encode
from tidemill_contracts.events.meta import Event
from tidemill_runtime.artifacts import Artifacts
from tidemill_serving.artifacts import Models
from tidemill_serving.domain.house import House
from tidemill_serving.domain.protocol.datatypes import Tensor
from tidemill_serving.handlers.importing import Importer
from tidemill_serving.handlers.journal import Journal
from tidemill_serving.onnx.sandbox import SandboxLimits
from tidemill_serving.onnx.verdicts import Examiner
from tidemill_serving.store.imported import ImportedFile

pytestmark = pytest.mark.anyio
READY, REFUSED = "READY", "UNAVAILABLE"


@dataclass
class Record:
    """A record of the topic of imported models."""

    offset: int
    value: bytes | None
    headers: list[tuple[str, bytes]]


def record(offset: int, event: Event) -> Record:
    envelope = encode(event, id=f"{offset}", source="test", time_us=T0_US)
    return Record(offset, envelope.data, envelope.headers())


@asynccontextmanager
async def importing(folder: Path) -> AsyncIterator[tuple[House, Importer]]:
    """An importer over the folder of one instance, which opens models until the block ends."""
    house = House()
    journal = Journal(house, MemoryLog(), "test", lambda: None, lambda: T0_US)
    examiner = Examiner(folder / "verdicts", SandboxLimits(cpu_s=2, wall_s=30))
    graphs = Models(Artifacts(folder / "artifacts"), folder / "models", examiner)
    importer = Importer(graphs, ImportedFile(folder), journal, "tidemill.models.v1")
    running = asyncio.ensure_future(importer.run())
    try:
        yield house, importer
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await examiner.close()


def states(house: House) -> dict[str, dict[int, str]]:
    models = house.catalogue.models
    return {name: {number: each.state for number, each in models[name].items()} for name in sorted(models)}


async def test_a_start_alone_has_the_models_that_were_open(tmp_path: Path) -> None:
    artifacts = Artifacts(tmp_path / "artifacts")
    given = [
        ("bad", 1, integer_division(4)),
        ("off", 1, root()),
        ("pair", 1, two_and_two()),
        ("pair", 2, two_and_two()),
    ]
    imports = [
        ModelImported(model=name, version=version, digest=artifacts.put(data), size=len(data))
        for name, version, data in given
    ]
    off = ModelSwitched(model="off", loaded=False, switch_id=uuid4())
    wanted = {"bad": {1: REFUSED}, "off": {1: REFUSED}, "pair": {1: READY, 2: READY}}
    async with importing(tmp_path) as (house, importer):
        for offset, event in enumerate([*imports, off]):
            importer.on_records("models", 0, [record(offset, event)])
        await until(lambda: states(house) == wanted, "every model is open, refused or off")
    shutil.rmtree(tmp_path / "artifacts")
    async with importing(tmp_path) as (house, importer):
        importer.restore()
        await until(lambda: states(house) == wanted, "the same from the disk")
        graph = house.catalogue.models["pair"][2].graph
        assert graph is not None
        inputs = [Tensor("a", "FP32", np.ones((1, 3), np.float32)), Tensor("b", "FP32", np.ones(3, np.float32))]
        names = Tensor("names", "BYTES", np.array([b"x"], object))
        found = graph.run({tensor.name: tensor for tensor in [*inputs, names]}, ["sum"])
        assert found[0].values.tolist() == [[2.0, 2.0, 2.0]]


async def test_a_damaged_copy_is_not_opened(tmp_path: Path) -> None:
    data = two_and_two()
    digest = Artifacts(tmp_path / "artifacts").put(data)
    event = ModelImported(model="pair", version=1, digest=digest, size=len(data))
    async with importing(tmp_path) as (house, importer):
        importer.on_records("models", 0, [record(0, event)])
        await until(lambda: states(house) == {"pair": {1: READY}}, "it is open")
    copy = tmp_path / "models" / f"{digest}.onnx"
    copy.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    shutil.move(tmp_path / "artifacts", tmp_path / "away")
    async with importing(tmp_path) as (house, importer):
        importer.restore()
        found = house.catalogue.models["pair"][1]
        await until(lambda: found.reason != "", "it waits for the store")
        assert (found.state, found.graph, found.reason) == ("LOADING", None, "it cannot be fetched now")
        shutil.move(tmp_path / "away", tmp_path / "artifacts")
        await until(lambda: found.state == READY, "it is fetched again")
