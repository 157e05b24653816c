"""The service against a real Kafka, without Postgres: from a release and vectors to answers and the log."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from serving_cases import HOUR_US, T0_US, inputs, linear, pipeline, released
from serving_stack import Stack, open_stack

from tidemill_contracts.base import format_time, parse_time
from tidemill_contracts.events import ModelSwapped, Prediction, Timer
from tidemill_contracts.ids import prediction_id

pytestmark = pytest.mark.anyio
SPEC = pipeline()


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


async def test_a_release_and_vectors_become_answers(stack: Stack) -> None:
    await stack.until_status(ready=True)
    assert (await stack.predict(inputs())).status_code == 409

    digest = stack.artifacts.put(linear(SPEC.feature_names()))
    await stack.vector("by-carrier", "AA", [12.5, 3.0], revision=7)
    await stack.watermark(T0_US + HOUR_US)
    await stack.release(released(SPEC, 1, digest))
    await stack.until_status(epoch=1, watermark_us=T0_US + HOUR_US, progress_us=T0_US + HOUR_US)

    answer = (await stack.predict(inputs(), id="a")).json()
    again = (await stack.predict(inputs(), id="a")).json()
    unknown = (await stack.predict(inputs(carrier="DL"))).json()

    assert answer == again
    assert answer == {
        "prediction_id": str(prediction_id(SPEC.name, "a")), "score": answer["score"], "epoch": 1, "version": 1,
        "model": digest, "revisions": {"by-carrier": 7}, "features_at": format_time(T0_US), "defaulted": [],
        "degraded": False, "trace_id": answer["trace_id"],
    }  # fmt: skip
    assert (unknown["defaulted"], unknown["revisions"]) == (["by-carrier"], {"by-carrier": 0})
    await stack.until_status(answered=2, spooled=2, shipped=2)
    await check_log(stack, answer, unknown)
    metrics = (await stack.client.get("/metrics")).text
    assert f'tidemill_serving_predictions_total{{pipeline="{SPEC.name}"}} 2.0' in metrics
    assert "tidemill_serving_spool_pending_records 0.0" in metrics
    assert stack.process.stop() == 0


async def check_log(stack: Stack, answer: dict[str, Any], unknown: dict[str, Any]) -> None:
    """The log holds both predictions as they were answered, behind the progress that was declared before them."""
    records = [envelope for _, envelope in await stack.logged()]
    predictions = {e.id: Prediction.read(e.data) for e in records if e.type == Prediction.TYPE}
    timers = [Timer.read(e.data) for e in records if e.type == Timer.TYPE]
    assert [timer.time_us for timer in timers] == [T0_US + HOUR_US] * SPEC.partitions
    logged = predictions[answer["prediction_id"]]
    assert (logged.score, logged.trace_id) == (answer["score"], answer["trace_id"])
    assert logged.vector == [12.5, 3.0, 100.0, 10.0]
    assert logged.revisions["by-carrier"].positions == {"0": 7}
    assert logged.at_us == parse_time("2013-01-01T10:00:00Z")
    assert predictions[unknown["prediction_id"]].vector[:2] == [None, None]
    ((_, swap),) = await stack.logged("swaps")
    assert (swap.subject, swap.causation) == (SPEC.name, "release-1")
    assert swap.traceparent is not None
    assert ModelSwapped.read(swap.data).epoch == 1
