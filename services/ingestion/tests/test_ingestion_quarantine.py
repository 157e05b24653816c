"""Nulls come into a running service: told within one window, with exact numbers, listed, released, across a SIGKILL."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ingestion_cases import tail_of
from ingestion_stack import PIPELINE, Running, apply_pipeline

from tidemill_contracts import read_envelope, topic
from tidemill_contracts.events import QualityBreached, QualityJudged
from tidemill_contracts.events.control import QuarantineReleased
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.fixtures import unique_name
from tidemill_testkit.topics import read_topic
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
RULES = "quality: {window: 1h, judge_from: 20, fields: {seats: {max_nulls: 0.04}}}"
WATCHED = PIPELINE.replace("allowed_lateness: 1h", f"allowed_lateness: 10m\n    {RULES}", 1)
TAIL = tail_of(1)


@pytest.fixture
async def service(kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path) -> AsyncIterator[Running]:
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres=postgres_dsn, artifacts=str(tmp_path / "artifacts"), state=tmp_path / "state",
        prefix=unique_name("q"),
    )  # fmt: skip
    await apply_pipeline(settings, WATCHED)
    found = Running(settings)
    found.start()
    await found.ready()
    yield found
    found.kill()


def hour(number: int, count: int, nulls: int) -> list[dict[str, Any]]:
    """Flights of one hour in one partition, the first `nulls` of them without seats."""
    return [
        {"id": f"{number}-{n}", "data": {
            "tail": TAIL, "at": f"2013-01-01T{number:02d}:{n * 60 // count:02d}:00Z", "delay": 1.0,
            **({} if n < nulls else {"seats": 100})}}
        for n in range(count)
    ]  # fmt: skip


async def told(service: Running) -> list[QualityBreached | QuarantineReleased]:
    found: list[QualityBreached | QuarantineReleased] = []
    for records in (await read_topic(service.settings, topic("quality", prefix=service.settings.prefix))).values():
        for record in records:
            envelope = read_envelope(record.headers, record.value)
            if envelope.type == QualityJudged.TYPE:
                continue
            kind = QualityBreached if envelope.type == QualityBreached.TYPE else QuarantineReleased
            found.append(kind.read(envelope.data))
    return found


async def judged(service: Running) -> list[int]:
    """Up to where all windows of the flights' partition were judged, in the order of the topic, with the breach's."""
    (records,) = (await read_topic(service.settings, topic("quality", prefix=service.settings.prefix))).values()
    words = [read_envelope(record.headers, record.value) for record in records]
    return [word.time_us for word in words if word.type in {QualityJudged.TYPE, QualityBreached.TYPE}]


async def breached(service: Running, client: httpx.AsyncClient) -> QualityBreached:
    """Send four hours of flights, five in a hundred of the second without seats, with a SIGKILL in that hour."""
    events = [*hour(10, 40, 0), *hour(11, 60, 3), *hour(12, 40, 1), *hour(13, 20, 0)]
    assert (await client.post("/v1/events/flights", json=events[:90])).status_code == 202
    await service.counted(applied=90, timeout_s=120)
    service.kill()
    service.start()
    await service.ready()
    assert (await client.post("/v1/events/flights", json=events)).status_code == 202
    await service.counted(applied=160, duplicates=90, timeout_s=120)
    await words(service, 1)
    (breach,) = await told(service)
    assert isinstance(breach, QualityBreached)
    return breach


async def words(service: Running, count: int) -> None:
    """Return when so many are told."""

    async def are_told() -> bool:
        return len(await told(service)) == count

    await until(are_told, f"{count} words on quality", timeout_s=120, every_s=0.2)


@pytest.mark.timeout(600)
async def test_five_in_a_hundred_nulls_are_told_with_their_numbers_and_released_by_hand(service: Running) -> None:
    async with service.client() as client:
        breach = await breached(service, client)
        times = await judged(service)
        assert times == sorted(times)
        assert breach.window_us[1] in times[:-1]  # its own place is before the word that all is judged
        assert (breach.field, breach.rule, breach.value, breach.rows) == ("seats", "nulls", 3 / 60, 60)
        assert (breach.partition, breach.numbers, breach.ranges) == (1, (40, 99), [(40, 99)])
        numbered = {int(dict(r.headers)["tm_seq"]): json.loads(r.value) for r in await service.records("events")}
        assert {n for n, body in numbered.items() if body["at"].startswith("2013-01-01T11")} == set(range(40, 100))

        listed = (await client.get("/v1/quarantine", params={"source": "flights"})).json()["windows"]
        assert [each["id"] for each in listed] == [str(breach.quarantine_id)]
        assert listed[0]["window"] == ["2013-01-01T11:00:00Z", "2013-01-01T12:00:00Z"]
        assert (listed[0]["ranges"], listed[0]["released"]) == ([[40, 99]], False)
        place = f"/v1/quarantine/{breach.quarantine_id}"
        for _ in range(2):
            answer = await client.post(f"{place}/release", json={"detail": "looked at"})
            assert (answer.status_code, answer.json()["released"]) == (200, True)
        assert (await client.get(place)).json()["detail"] == "looked at"
        assert (await client.get("/v1/quarantine")).json()["windows"] == []
        assert len((await client.get("/v1/quarantine", params={"all": "true"})).json()["windows"]) == 1
        assert (await client.get("/v1/quarantine/nothing")).status_code == 404
        await words(service, 2)
        assert (await told(service))[1].quarantine_id == breach.quarantine_id
