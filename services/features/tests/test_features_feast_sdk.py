"""Feast's own SDK against the running services: what it pushes it reads, as it was published."""

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from feast_parts import SHORT
from feast_sdk import Sdk, python, sdk
from features_cases import pipeline
from features_stack import Process, Stack, open_stack, until

from tidemill_testkit.processes import worker

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]
KEY = "the-key-of-all-routes"
PRESENT, NULL_VALUE, NOT_FOUND, OUTSIDE_MAX_AGE = 1, 2, 3, 4
RAW = {"carrier": "string", "origin": "string", "dest": "string", "delay": "float"}
FIELDS = dict.fromkeys(SHORT, "float")
VIEWS: dict[str, dict[str, Any]] = {
    "by-flight": {"keys": ["flight"], "fields": FIELDS}, "by-carrier": {"keys": ["carrier"], "fields": FIELDS},
    "by-route": {"keys": ["origin", "dest"], "fields": FIELDS},
    # What is pushed are events: in the repository they are a view of their own, named for their source.
    "departures": {"keys": ["flight"], "fields": RAW, "push": "departures"},
}  # fmt: skip
DF: dict[str, list[Any]] = {
    "flight": ["F1", "F1", "F2"], "carrier": ["AA", "AA", "UA"], "origin": ["EWR", "EWR", "JFK"],
    "dest": ["LAX", "LAX", "SFO"], "delay": [0.1, 0.2, None],
    "event_timestamp": ["2015-08-19T16:00:00", "2015-08-19T16:10:00", "2015-08-19T16:10:00"],
}  # fmt: skip


@dataclass
class World:
    """The services, and the SDK that is pointed at them."""

    stack: Stack
    features: Process
    ingestion: str
    sdk: Sdk

    async def do(self, name: str, **step: object) -> Any:  # noqa: ANN401 - JSON
        return await asyncio.to_thread(self.sdk.do, name, **step)

    async def online(self, *features: str, **columns: str | None) -> tuple[list[Any], list[int]]:
        """Values and statuses of features of one entity."""
        found = await self.do("online", features=list(features), rows=[columns])
        names = [feature.partition(":")[2] for feature in features]
        return [found["values"][name][0] for name in names], [found["statuses"][name][0] for name in names]

    async def post(self, url: str, body: object) -> httpx.Response:
        async with httpx.AsyncClient(headers={"x-api-key": KEY}) as client:
            return await client.post(url, json=body, timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
async def world(kafka_bootstrap: str, postgres_dsn: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[World]:
    python()
    prefix, port = f"f-{topic_prefix[-8:]}", free_port()
    async with open_stack(kafka_bootstrap, postgres_dsn, prefix, tmp_path) as stack:
        await stack.apply(pipeline(ttl="2h"), revision=2)  # of the view by carrier
        shared = {"TIDEMILL_KAFKA": kafka_bootstrap, "TIDEMILL_POSTGRES": postgres_dsn, "TIDEMILL_PREFIX": prefix,
                  "TIDEMILL_ARTIFACTS": str(tmp_path / "artifacts"), "TIDEMILL_STATE": str(tmp_path / "ingestion"),
                  "TIDEMILL_PORT": str(port), "TIDEMILL_API_KEY": KEY}  # fmt: skip
        with worker("tidemill_ingestion", env=shared):
            url = f"http://127.0.0.1:{port}"
            features = stack.start(TIDEMILL_API_KEY=KEY, TIDEMILL_INGESTION_URL=url)
            what = {
                "folder": str(tmp_path / "feast"), "online_store": {"type": "remote", "path": features.url},
                # The API key as a bearer token: a fixed one is the only way of its clients that asks nobody else.
                "auth": {"type": "oidc", "token": KEY},
                "entities": ["flight", "carrier", "origin", "dest"], "views": VIEWS,
                "services": {"late": ["by-flight", "by-carrier", "by-route"]},
            }  # fmt: skip
            try:
                with sdk(what) as opened:
                    await features.ready()
                    yield World(stack, features, url, opened)
            finally:
                features.kill()


async def test_what_the_sdk_pushes_it_reads(world: World) -> None:
    await pushed(world)
    await the_vectors_are_the_published_ones(world)
    await a_feature_service_gives_all(world)
    await statuses(world)
    await errors(world)
    await time_to_live(world)


async def pushed(world: World) -> None:
    """The source may not be known to ingestion for a moment: the SDK asks again after a 503, and so may we."""
    for _ in range(2):  # the same rows again are the same events
        await world.do("push", source="departures", df=DF)
    body = {"push_source_name": "departures", "df": {name: [column[0]] for name, column in DF.items()}, "to": "online"}
    assert (await world.post(f"{world.features.url}/push", body)).status_code == 200

    async def counted() -> bool:
        values, _ = await world.online("by-carrier:count_1h", carrier="AA")
        others, _ = await world.online("by-route:count_1d", origin="EWR", dest="LAX")
        return values == [2.0] and others == [2.0]

    await until(counted, "the pushed rows are in the vectors")
    assert (await world.online("by-flight:count_1h", flight="F1"))[0] == [2.0]


async def the_vectors_are_the_published_ones(world: World) -> None:
    async with httpx.AsyncClient(headers={"x-api-key": KEY}) as client:
        published = (await client.get(f"{world.features.url}/v1/features/by-flight/F1")).json()
    values, statuses = await world.online(*[f"by-flight:{name}" for name in SHORT], flight="F1")
    assert values == published["values"]
    assert set(statuses) == {PRESENT}
    rows = await world.do("read", view="by-flight", key="flight", values=["F1", "nobody"], features=list(SHORT))
    assert rows[0] == ["2015-08-19T16:10:00+00:00", dict(zip(SHORT, values, strict=True))]
    assert rows[1][1] == dict.fromkeys(SHORT)


async def a_feature_service_gives_all(world: World) -> None:
    row = {"flight": "F1", "carrier": "UA", "origin": "EWR", "dest": "LAX"}
    found = await world.do("online", service="late", rows=[row], full=True)
    assert len(found["values"]) == 4 + 3 * len(SHORT)
    assert found["values"]["by-carrier__count_1h"] == [1.0]


async def statuses(world: World) -> None:
    assert await world.online("by-flight:delay_mean_1h", flight="F2") == ([None], [NULL_VALUE])
    assert await world.online("by-flight:count_1h", flight="nobody") == ([None], [NOT_FOUND])


async def errors(world: World) -> None:
    def fails(**step: object) -> str:
        return world.sdk.fails("online", rows=[{"flight": "F1", "carrier": "AA"}], **step)

    assert fails(features=["nothing:x"]) == "FeatureViewNotFoundException"
    assert fails(features=["by-flight:count_1h", "by-carrier:count_1h"]) == "FeatureNameCollisionError"
    assert fails(features=["by-flight:nothing"]) == "RuntimeError"
    late = DF | {"delay": [1.0, 2.0, 3.0], "origin": [None, "EWR", "EWR"]}
    assert world.sdk.fails("push", source="departures", df=late) == "RuntimeError", "ingestion asks for an origin"
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{world.features.url}/get-online-features", json={"entities": {}})
        assert answer.status_code == 401
        assert (await client.get(f"{world.features.url}/health")).status_code == 200


async def time_to_live(world: World) -> None:
    """By event time: two days later the carriers' windows and two hours are over, the flights' 60 days are not."""
    answer = await world.post(f"{world.ingestion}/v1/sources/departures/progress", {"time": "2015-08-21T16:00:00Z"})
    assert answer.status_code == 202, answer.text

    async def outside() -> bool:
        return await world.online("by-carrier:count_1h", carrier="AA") == ([None], [OUTSIDE_MAX_AGE])

    await until(outside, "the carrier's time to live is over")
    assert await world.online("by-flight:delay_last", flight="F1") == ([0.2], [PRESENT])
