"""API keys with bounds: who is let in, for what, and for how many rows a second, over all workers of an instance."""

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import Response

from tidemill_runtime.errors import Configuration
from tidemill_runtime.http import App, Keys, Route, caller_of
from tidemill_runtime.http.quotas import Bucket, Quotas
from tidemill_runtime.settings import ServiceSettings

pytestmark = pytest.mark.anyio


async def rows(request: Request) -> Response:
    """Costs as many rows as its body has bytes."""
    caller_of(request).charge(len(await request.body()) - 1)
    return Response("")


async def read(_: Request) -> Response:
    return Response("")


ROUTES = [
    Route(method="POST", path="/rows", endpoint=rows, summary="Rows", metered=True),
    Route(method="POST", path="/admin", endpoint=rows, summary="Decide"),
    Route(method="GET", path="/read", endpoint=read, summary="Read"),
    Route(method="GET", path="/livez", endpoint=read, summary="Live", public=True),
]


def spec(key: str, **fields: object) -> dict[str, Any]:
    digest = sha256(key.encode()).hexdigest()
    return {"name": key, "sha256": digest, "rows_per_second": 0.001, "burst": 5, "services": ["test"]} | fields


@pytest.fixture
def keyed(tmp_path: Path, service_settings: Callable[..., ServiceSettings]) -> Callable[..., ServiceSettings]:
    """Settings with a file of these keys."""

    def make(*specs: dict[str, Any], **fields: object) -> ServiceSettings:
        (tmp_path / "keys.json").write_text(json.dumps({"keys": specs}))
        return service_settings(api_keys=tmp_path / "keys.json", **fields)

    return make


async def test_a_key_opens_what_it_lists_for_its_rows(keyed: Callable[..., ServiceSettings]) -> None:
    settings = keyed(spec("shop"), spec("other", services=["serving"]), api_key="operator")
    app = App(ROUTES, keys=Keys.of(settings))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://t") as client:

        async def ask(key: str | None, method: str = "POST", path: str = "/rows", body: bytes = b"x") -> httpx.Response:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            return await client.request(method, path, content=body, headers=headers)

        for key in (None, "", "sho", "shop ", "wrong", sha256(b"shop").hexdigest()):
            if key != "shop ":  # blanks around a token are none of its own
                answer = await ask(key)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert (await ask("other")).status_code == 403
        assert (await ask("shop", path="/admin")).status_code == 403
        assert (await ask(None, "GET", "/livez")).status_code == 200
        assert (await ask("shop", "GET", "/read")).status_code == 200
        assert (await ask("shop", body=b"xx")).status_code == 200
        answer = await ask("shop", body=b"xxx")
        assert (answer.status_code, answer.headers["content-type"]) == (429, "application/problem+json")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await ask("shop", body=b"x" * 7)).status_code in {413, 429}
        assert [(await ask("operator", path="/admin")).status_code for _ in range(20)] == [200] * 20


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("{", "JSON"), ('{"keys": []}', "keys"), (json.dumps({"keys": [spec("a", burst=0)]}), "keys.0.burst"),
        (json.dumps({"keys": [spec("a", sha256="secret")]}), "keys.0.sha256"),
        (json.dumps({"keys": [spec("a"), spec("a")]}), "same name"),
        (json.dumps({"keys": [spec("a", secret="a")]}), "keys.0.secret"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused(
    service_settings: Callable[..., ServiceSettings], tmp_path: Path, broken: str, said: str
) -> None:
    (tmp_path / "keys.json").write_text(broken)
    with pytest.raises(Configuration, match=said) as error:
        Keys.of(service_settings(api_keys=tmp_path / "keys.json"))
    assert '"a"' not in str(error.value)
    with pytest.raises(Configuration, match="No such file"):
        Keys.of(service_settings(api_keys=tmp_path / "none.json"))


def test_workers_share_a_quota(tmp_path: Path) -> None:
    now = [1000.0]
    file = tmp_path / "quotas-a"
    buckets = [Bucket(Quotas(2, file), 1, 10.0, 20, lambda: now[0]) for _ in range(3)]
    assert sum(buckets[n % 3].take(1) == 0.0 for n in range(60)) == 20  # the burst, whichever worker was asked
    assert buckets[0].take(1) == pytest.approx(0.1)
    passed = 0
    for _ in range(1000):  # ten seconds, unevenly asked
        now[0] += 0.01
        passed += sum(buckets[worker].take(1) == 0.0 for worker in (0, 0, 1))
    assert passed == pytest.approx(100, abs=1)
    now[0] += 100
    assert [buckets[2].take(20) == 0.0, buckets[1].take(1) == 0.0] == [True, False]  # a rest gives the burst, not more
    assert Bucket(Quotas(2, file), 1, 10.0, 20, lambda: now[0]).take(1) > 0  # a worker that is started anew knows
    assert Bucket(Quotas(2, file), 0, 10.0, 20, lambda: now[0]).take(20) == 0.0  # each key has its own
    now[0] = 5.0  # the machine was booted: its clock begins again
    assert buckets[0].take(20) == 0.0
