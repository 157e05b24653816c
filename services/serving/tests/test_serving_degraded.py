"""Registry, Kafka and Postgres are away for an hour: a restart answers from the disk, and the hour arrives later."""

import asyncio
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from serving_cases import inputs, pipeline
from serving_load import Load, begin
from serving_stack import DEADLINE_S, Stack, open_stack, until

from tidemill.stack import LocalKafka
from tidemill_contracts.events import Prediction
from tidemill_contracts.ids import prediction_id

HOUR_RECORDS = int(os.environ.get("TIDEMILL_CHAOS_HOUR_RECORDS", str(3600 * 100)))
"""An hour at a hundred answers a second, asked as fast as they are given."""
AT_ONCE = 1000
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200), pytest.mark.chaos]
SPEC = pipeline()


async def restart(stack: Stack) -> float:
    """Kill and start; the seconds until it says that it is ready."""
    assert stack.process.stop(signal.SIGKILL) == -signal.SIGKILL
    began = time.monotonic()
    stack.process.start()
    await stack.until_status(ready=True, epoch=1)
    return time.monotonic() - began


async def an_hour(stack: Stack) -> list[str]:
    """All of the hour's requests; their ids."""
    names = [f"hour-{number}" for number in range(HOUR_RECORDS)]
    for first in range(0, len(names), AT_ONCE):
        part = names[first : first + AT_ONCE]
        instances = [{"id": name, "inputs": inputs(flight=name)} for name in part]
        while True:
            answer = await stack.client.post(f"/v1/predict/{SPEC.name}", json={"instances": instances})
            if answer.status_code == 200:
                break
            assert answer.status_code == 503, answer.text
            await asyncio.sleep(0.05)
        assert all(found["degraded"] for found in answer.json()["predictions"])
    return names


async def test_an_hour_alone_arrives_whole(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path / "kafka")
    await asyncio.to_thread(kafka.start)
    try:
        async with open_stack(kafka.bootstrap, "hour", tmp_path, SPEC) as stack:
            await begin(stack)
            load = Load(stack)
            load.answers["before"] = await load.ask("before")
            await until((tmp_path / "state" / "replica.snapshot").exists, "a snapshot")
            await stack.until_status(shipped=1)
            await asyncio.to_thread(kafka.stop)
            empty_s = await restart(stack)
            answer = await load.ask("during")
            assert answer["degraded"]
            assert answer["score"] == load.answers["before"]["score"]
            names = [*await an_hour(stack), "before", "during"]
            full_s = await restart(stack)
            print(f"\nready {empty_s:.2f} s after a kill, {full_s:.2f} s with {len(names):,} records in the spool")  # noqa: T201 - the figure
            assert max(empty_s, full_s) < DEADLINE_S
            last = f"hour-{HOUR_RECORDS - 1}"
            repeated = await stack.predict(inputs(flight=last), id=last)
            assert repeated.json()["prediction_id"] == str(prediction_id(SPEC.name, last))
            await asyncio.to_thread(kafka.start)
            await arrives(stack, names)
    finally:
        await asyncio.to_thread(kafka.stop)


async def arrives(stack: Stack, names: list[str]) -> None:
    """The broker is back: all of it comes to the topic, once."""
    began = time.monotonic()
    await until(lambda: _all_shipped(stack, len(names)), "the hour is shipped", deadline_s=300)
    print(f"shipped {len(names) / (time.monotonic() - began):,.0f} records a second")  # noqa: T201 - the figure
    logged = Counter(e.id for _, e in await stack.logged() if e.type == Prediction.TYPE)
    assert max(logged.values()) == 1
    assert logged.keys() == {str(prediction_id(SPEC.name, name)) for name in names}


async def _all_shipped(stack: Stack, count: int) -> bool:
    found = await stack.status()
    return bool(found) and found["answered"] == found["shipped"] == count
