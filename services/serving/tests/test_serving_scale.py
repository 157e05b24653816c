"""One to four workers in each of two replicas: the same answers, each logged once, and every writer's word holds."""

import os
import random
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving_cases import HOUR_US, T0_US, linear, pipeline
from serving_load import Load, begin, check_records
from serving_stack import Stack, open_stack, process_of, until
from test_serving_workers import all_up

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import Prediction, Timer
from tidemill_serving.onnx import Scorer

KILLS = 6
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600), pytest.mark.chaos]
SPEC = pipeline()


@asynccontextmanager
async def second(stack: Stack, folder: Path, workers: int) -> AsyncIterator[Stack]:
    """Another replica of the same pipeline, with a disk of its own."""
    folder.mkdir()  # noqa: ASYNC240 - one call
    artifacts = str(stack.folder / "artifacts")
    process = process_of(
        stack.kafka, stack.prefix, folder, TIDEMILL_INSTANCE="other", TIDEMILL_ARTIFACTS=artifacts,
        TIDEMILL_SERVING_WORKERS=str(workers),
    )  # fmt: skip
    async with httpx.AsyncClient(base_url=process.url, timeout=20) as client:
        opened = replace(stack, process=process, client=client, folder=folder)
        process.start()
        try:
            yield opened
        finally:
            process.stop(signal.SIGKILL)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
async def test_the_same_answers_each_logged_once(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path, workers: int
) -> None:
    prefix, count = f"t-{topic_prefix[-8:]}", str(workers)
    async with (
        open_stack(kafka_bootstrap, prefix, tmp_path, SPEC, TIDEMILL_SERVING_WORKERS=count) as first,
        second(first, tmp_path / "second", workers) as other,
    ):
        await begin(first)
        await other.until_status(ready=True, epoch=1, progress_us=T0_US + HOUR_US)
        stacks, chance = [first, other], random.Random(workers)
        loads = [Load(stack) for stack in stacks]
        for number, load in enumerate(loads):
            load.start(4, once=1, prefix=f"r{number}-")
        for kill in range(KILLS):
            await first.watermark(T0_US + (kill + 2) * HOUR_US)
            for load in loads:
                await load.until_more(chance.randrange(20, 80))
            await kill_one(stacks[kill % 2], workers, chance)
        for stack, load in zip(stacks, loads, strict=True):
            await stack.until_status(ready=True)
            await load.stop()
            await until(lambda stack=stack: is_shipped(stack), "everything is shipped")  # type: ignore[misc]
        answers = loads[0].answers | loads[1].answers
        records = await first.logged()
        check_records(first, records, answers, once=sorted(loads[0].once | loads[1].once))
        vectors = np.array([[12.5, 3.0, 100.0, 10.0]], np.float32)
        (expected,) = Scorer(linear(SPEC.feature_names()), 4).scores(vectors).tolist()
        assert {answer["score"] for answer in answers.values()} == {expected}
        assert len(check_words(records)) == 2 * workers


async def kill_one(stack: Stack, workers: int, chance: random.Random) -> None:
    """One of the workers, or the process itself where it is alone."""
    if workers == 1:
        stack.process.stop(signal.SIGKILL)
        stack.process.start()
        return
    pids = await all_up(stack, workers)
    os.kill(pids[chance.choice(sorted(pids))], signal.SIGKILL)


def check_words(records: list[tuple[int, Envelope]]) -> set[str]:
    """No writer breaks its own word: nothing of it follows below its timer in a partition. Returns the writers."""
    said: dict[tuple[int, str], int] = {}
    for partition, envelope in records:
        place = partition, envelope.source
        if envelope.type == Timer.TYPE:
            said[place] = max(said.get(place, 0), Timer.read(envelope.data).time_us)
        elif envelope.type == Prediction.TYPE:
            assert Prediction.read(envelope.data).at_us >= said.get(place, 0)
    return {source for _, source in said}


async def is_shipped(stack: Stack) -> bool:
    found = await stack.status()
    return bool(found) and found["ready"] and found["answered"] == found["shipped"]
