"""Keys with bounds in front of predictions: rows are charged whichever way they come, all else is shut."""

import json
from collections.abc import AsyncIterator
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from serving_cases import inputs
from serving_edge import NAMES, PATH, SPEC, Edge, client, direct

from tidemill_runtime.http import Keys
from tidemill_runtime.settings import ServiceSettings

pytestmark = pytest.mark.anyio
JSON = {"content-type": "application/json"}


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    def spec(name: str, burst: int, **fields: object) -> dict[str, object]:
        digest = sha256(name.encode()).hexdigest()
        return {"name": name, "sha256": digest, "rows_per_second": 0.001, "burst": burst, **fields}

    specs = [spec("ten", 10), spec("one", 1), spec("elsewhere", 10, pipelines=["others"])]
    (tmp_path / "keys.json").write_text(json.dumps({"keys": specs}))
    settings = ServiceSettings(
        service="serving", kafka="k:1", postgres="p", artifacts="a", state=tmp_path, api_keys=tmp_path / "keys.json"
    )
    return Keys.of(settings, root=tmp_path)


@pytest.fixture(params=["direct", "front", "behind"])
async def http(request: pytest.FixtureRequest, keys: Keys) -> AsyncIterator[httpx.AsyncClient]:
    edge = Edge(keys=keys)
    edge.release()
    async with direct(edge) if request.param == "direct" else client(getattr(edge, request.param)) as opened:
        yield opened


async def ask(http: httpx.AsyncClient, key: str, path: str, document: object) -> httpx.Response:
    return await http.post(path, content=json.dumps(document).encode(), headers=JSON | {"x-api-key": key})


async def test_rows_are_charged_whichever_way_they_come(http: httpx.AsyncClient) -> None:
    one, four = {"inputs": inputs()}, {"instances": [{"inputs": inputs()}] * 4}
    assert (await ask(http, "one", PATH, one)).status_code == 200
    refused = await ask(http, "one", PATH, one)
    assert (refused.status_code, refused.headers["content-type"]) == (429, "application/problem+json")
    assert int(refused.headers["retry-after"]) > 0
    assert (await ask(http, "one", PATH, four)).status_code == 429
    assert [(await ask(http, "ten", PATH, four)).status_code for _ in range(3)] == [200, 200, 429]
    assert (await ask(http, "ten", PATH, one)).status_code in {200, 429}  # what the refused one cost


async def test_tensors_cost_their_rows(http: httpx.AsyncClient) -> None:
    tensor = {"name": "features", "shape": [4, len(NAMES)], "datatype": "FP64", "data": [0.5] * 4 * len(NAMES)}
    path = f"/v2/models/{SPEC.name}/infer"
    answers = [await ask(http, "ten", path, {"inputs": [tensor]}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert "quota" in answers[2].json()["error"]


async def test_nothing_else_is_open(http: httpx.AsyncClient) -> None:
    one = {"inputs": inputs()}
    assert (await http.post(PATH, content=json.dumps(one).encode(), headers=JSON)).status_code == 401
    assert (await ask(http, "wrong", PATH, one)).status_code == 401
    assert (await ask(http, "elsewhere", PATH, one)).status_code == 403
    assert (await ask(http, "elsewhere", f"/v2/models/{SPEC.name}/infer", {})).status_code == 403
    assert (await ask(http, "ten", f"/v2/repository/models/{SPEC.name}/unload", {})).status_code == 403
    assert (await http.get("/v1/status", headers={"x-api-key": "ten"})).status_code == 200
    assert (await http.get("/v2/health/live")).status_code == 200
