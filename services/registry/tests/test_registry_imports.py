"""Imported models: what may be imported, which version it gets, and that it is announced with its row."""

import asyncio
import json

import pytest
from onnx import TensorProto, helper

from tidemill_engine.onnx import inspect_model
from tidemill_registry.domain.imports import ImportRefusedError, check, choose_version
from tidemill_registry.imports import Imports, listed
from tidemill_registry.store import SCHEMA, StoreQueries, open_unit
from tidemill_runtime.postgres import migrate, open_pool

A, B = "a" * 64, "b" * 64


def a_model(*, kind: int = TensorProto.FLOAT, names: tuple[str, str] = ("x", "y")) -> bytes:
    ports = [helper.make_tensor_value_info(name, kind, ["N"]) for name in names]
    graph = helper.make_graph([helper.make_node("Identity", [names[0]], [names[1]])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_the_same_bytes_keep_their_version_and_versions_never_change() -> None:
    assert choose_version({}, A, None) == (1, True)
    assert choose_version({1: A, 7: B}, "c" * 64, None) == (8, True)
    assert choose_version({1: A}, "c" * 64, 5) == (5, True)
    assert choose_version({1: A, 7: B}, B, None) == choose_version({1: A, 7: B}, B, 7) == (7, False)
    for known, wanted in (({1: A}, 2), ({1: B, 2: A}, 1)):
        with pytest.raises(ImportRefusedError):
            choose_version(known, A, wanted)


@pytest.mark.parametrize(("kind", "names"), [(TensorProto.COMPLEX64, ("x", "y")), (TensorProto.FLOAT, ("x", ""))])
def test_what_no_request_could_fill_is_refused(kind: int, names: tuple[str, str]) -> None:
    check(inspect_model(a_model()))
    with pytest.raises(ImportRefusedError):
        check(inspect_model(a_model(kind=kind, names=names)))


def test_row_event_and_audit_are_one_and_races_get_versions_of_their_own(postgres_dsn: str) -> None:
    asyncio.run(_race(postgres_dsn))


async def _race(dsn: str) -> None:
    pool = await open_pool(dsn)
    await migrate(pool, SCHEMA, "tidemill_registry")

    async def take(digest: str) -> tuple[int, bool]:
        async with open_unit(pool, "tidemill") as unit:
            return await Imports(unit).take("mnist", digest, 10, None)

    try:
        taken = await asyncio.gather(*[take(f"{number % 10:064x}") for number in range(20)])
        assert sorted(version for version, is_new in taken if is_new) == list(range(1, 11))
        rows = await listed(pool, "mnist")
        assert [row["version"] for row in rows] == list(range(1, 11))
        outbox = await pool.fetch("SELECT topic, key, value FROM registry.outbox")
        assert {(row["topic"], bytes(row["key"])) for row in outbox} == {
            ("tidemill.models.v1", f"mnist@{version}".encode()) for version in range(1, 11)
        }
        assert {json.loads(row["value"])["digest"] for row in outbox} == {row["digest"] for row in rows}
        assert len(await StoreQueries(pool).audit_links()) == 10
        assert await listed(pool, "nothing") == []
    finally:
        await pool.close()
