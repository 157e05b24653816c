"""Requests over Kafka while those who answer die, come and go: each has one answer in the topic."""

import asyncio
import os
import random
import signal
from functools import partial
from pathlib import Path

import httpx
import pytest
from serving_cases import inputs, pipeline
from serving_load import begin
from serving_orders import committed, ids, letters, order, predictions, send, spooled
from serving_stack import Process, Stack, open_stack, process_of, until

from tidemill.stack import LocalKafka
from tidemill_contracts.events import Prediction

KILLS = int(os.environ.get("TIDEMILL_CHAOS_BULK_KILLS", "20"))
SEED = 5
DEAD, ASLEEP, BACK_AT_ONCE = range(3)
PLAIN = pipeline()
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(1200), pytest.mark.chaos]


async def ask_until_answered(stack: Stack, process: Process, names: list[str]) -> None:
    """More and more, until a process has written answers: at that moment they are on their way."""
    before = spooled(process)
    while spooled(process) == before:
        more = [f"x-{n}" for n in range(len(names), len(names) + 60)]
        names += more
        await send(stack, [order({"id": name, "inputs": inputs(flight=name)}) for name in more])


def strike(process: Process, how: int) -> None:
    if how == ASLEEP and process.child is not None:
        process.child.send_signal(signal.SIGSTOP)
    else:
        process.stop(signal.SIGKILL)


def revive(process: Process, how: int) -> None:
    if how == ASLEEP and process.child is not None:
        process.child.send_signal(signal.SIGCONT)
    else:
        process.start()


async def test_replicas_that_die_around_the_commit_leave_each_answer_once(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    """One of two dies when it has written answers, or a moment later; the other takes over, or it comes back.

    Or it is only stopped, and goes on when the other has answered what it was about to send.
    """
    late = random.Random(SEED)
    more = {"TIDEMILL_SESSION_TIMEOUT_MS": "6000", "TIDEMILL_ARTIFACTS": str(tmp_path / "artifacts")}
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, PLAIN, **more) as stack:
        await begin(stack)
        (tmp_path / "two").mkdir()
        second = process_of(kafka_bootstrap, stack.prefix, tmp_path / "two", TIDEMILL_INSTANCE="1", **more)
        second.start()
        names = list[str]()

        async def are_there() -> bool:
            return await committed(stack) == len(names)

        try:
            for turn in range(KILLS):
                victim, how = (stack.process, second)[turn % 2], turn // 2 % 3
                await until(partial(_is_ready, victim), "it is ready")
                await ask_until_answered(stack, victim, names)
                await asyncio.sleep(late.choice((0.0, 0.0, 0.005, 0.02, 0.05, 0.1)))
                strike(victim, how)
                if how != BACK_AT_ONCE:
                    await until(are_there, "the other has answered all")
                revive(victim, how)
            await until(are_there, "all are done")
            assert await predictions(stack) == ids(names)
            assert not await letters(stack)
        finally:
            second.stop(signal.SIGKILL)


async def test_a_broker_that_goes_and_comes_back_has_each_answer_once(tmp_path: Path) -> None:
    """It goes while answers are on their way; the service lives on, or dies with it."""
    kafka = LocalKafka(tmp_path / "kafka")
    await asyncio.to_thread(kafka.start)
    names = list[str]()
    try:
        async with open_stack(kafka.bootstrap, "away", tmp_path, PLAIN) as stack:
            await begin(stack)

            async def are_there() -> bool:
                return await committed(stack) == len(names)

            for outage in range(4):
                await ask_until_answered(stack, stack.process, names)
                await asyncio.to_thread(kafka.stop)
                if outage % 2:
                    stack.process.stop(signal.SIGKILL)
                    stack.process.start()
                await asyncio.to_thread(kafka.start)
                await until(are_there, "all are done")
                assert await predictions(stack) == ids(names)
    finally:
        await asyncio.to_thread(kafka.stop)


async def _is_ready(process: Process) -> bool:
    try:
        async with httpx.AsyncClient(base_url=process.url) as client:
            return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


async def test_a_killed_worker_s_requests_are_answered_once_by_others(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with open_stack(
        kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, PLAIN, TIDEMILL_SERVING_WORKERS="2",
        TIDEMILL_SESSION_TIMEOUT_MS="6000",
    ) as stack:  # fmt: skip
        await begin(stack)
        names = [f"k-{n}" for n in range(2000)]
        sending = asyncio.ensure_future(
            send(stack, [order({"id": name, "inputs": inputs(flight=name)}) for name in names])
        )
        for kill in range(2):
            await until(partial(_at_least, stack, 300 + 500 * kill), "some are answered")
            alive = await pids(stack)
            os.kill(alive[kill % len(alive)], signal.SIGKILL)
        await sending

        async def are_there() -> bool:
            return await committed(stack) == len(names) and await predictions(stack) == ids(names)

        await until(are_there, "each id is in the topic once")
        assert not await letters(stack)


async def pids(stack: Stack) -> list[int]:
    """Of the workers, once one of them tells."""
    found: list[int] = []

    async def told() -> bool:
        try:
            answer = await stack.client.get("/v1/status", headers={"connection": "close"})
        except httpx.TransportError:
            return False
        found[:] = [worker["pid"] for worker in answer.json()["workers"] if worker["up"]]
        return bool(found)

    await until(told, "a worker tells of all")
    return found


async def _at_least(stack: Stack, count: int) -> bool:
    return sum((await predictions(stack)).values()) >= count


async def test_replicas_share_the_requests_and_hand_them_over(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, PLAIN) as stack:
        await begin(stack)
        (tmp_path / "two").mkdir()
        artifacts = {"TIDEMILL_ARTIFACTS": str(tmp_path / "artifacts"), "TIDEMILL_INSTANCE": "1"}
        second = process_of(kafka_bootstrap, stack.prefix, tmp_path / "two", **artifacts)
        second.start()
        names: list[str] = []

        async def ask() -> None:
            more = [f"r-{n}" for n in range(len(names), len(names) + 30)]
            names.extend(more)
            await send(stack, [order({"id": name, "inputs": inputs(flight=name)}) for name in more])

        async def both_answer() -> bool:
            await ask()
            return len({e.source for _, e in await stack.logged() if e.type == Prediction.TYPE}) == 2

        try:
            await until(both_answer, "both replicas answer")
            stopping = asyncio.ensure_future(asyncio.to_thread(stack.process.stop))
            while not stopping.done():
                await ask()
            assert stopping.result() == 0
            await ask()

            async def are_there() -> bool:
                return (await predictions(stack)).keys() == ids(names).keys()

            await until(are_there, "each id is in the topic")
            assert set((await predictions(stack)).values()) == {1}
        finally:
            second.stop(signal.SIGKILL)
