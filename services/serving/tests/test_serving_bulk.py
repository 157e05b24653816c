"""Requests over Kafka: answered once among the predictions, refused into the dead letters, behind those who wait."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from serving_cases import T0_US, inputs, pipeline
from serving_load import begin
from serving_stack import Stack, open_stack, process_of, until

from tidemill_contracts.envelope import Envelope
from tidemill_contracts.events import Prediction, PredictionRequested
from tidemill_contracts.ids import prediction_id, request_key
from tidemill_contracts.topics import dead_letters, request_group, topic
from tidemill_runtime.settings import ServiceSettings
from tidemill_serving.domain.house import Counts
from tidemill_serving.handlers.bulk import BUSY_FOR_S, BUSY_ROWS, IDLE_ROWS, Pace
from tidemill_testkit.topics import Sent
from tidemill_testkit.topics import read_topic as read_records

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]
SPEC = pipeline(missing="refuse")
PLAIN = pipeline()


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


def order(body: dict[str, Any] | bytes, *, event_id: str = "", kind: str = PredictionRequested.TYPE) -> Sent:
    """A record of the requests' topic."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    envelope = Envelope(event_id or str(uuid4()), kind, "test", T0_US, data)
    return b"k", data, envelope.headers()


async def send(stack: Stack, records: list[Sent], *, partition: int | None = None) -> None:
    """To the pipeline's requests, over its partitions."""
    name = topic("requests", stack.spec.name, prefix=stack.prefix)
    for number, (key, value, headers) in enumerate(records):
        place = number % stack.spec.partitions if partition is None else partition
        await stack.producer.send(name, value, key=key, partition=place, headers=list(headers))
    await stack.producer.flush()


async def predictions(stack: Stack) -> Counter[str]:
    """How often each prediction stands in the topic."""
    return Counter(envelope.id for _, envelope in await stack.logged() if envelope.type == Prediction.TYPE)


async def letters(stack: Stack) -> list[dict[str, str]]:
    """What the dead letters say, in order."""
    name = dead_letters(topic("requests", stack.spec.name, prefix=stack.prefix))
    settings = ServiceSettings(
        kafka=stack.kafka, postgres="postgresql:///none", artifacts="/none", state=stack.folder, prefix=stack.prefix
    )
    records = [record for found in (await read_records(settings, name)).values() for record in found]
    return [{n: v.decode("utf-8", "replace") for n, v in record.headers} for record in records]


async def committed(stack: Stack) -> int:
    """Records of the requests that the group has done with."""
    admin = AIOKafkaAdminClient(bootstrap_servers=stack.kafka)
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(request_group(stack.spec.name, prefix=stack.prefix))
    finally:
        await admin.close()
    return sum(max(0, place.offset) for place in found.values())


def ids(names: list[str]) -> Counter[str]:
    """One prediction for each."""
    return Counter(str(prediction_id(SPEC.name, name)) for name in names)


def bad_records() -> dict[str, Sent]:
    """By what their dead letters say."""
    return {
        "ce_type: unknown": order({"inputs": inputs()}, kind="com.example.other.v1"),
        "valid JSON": order(b"{"),
        "twice": order(b'{"inputs": {}, "inputs": {}}'),
        "inputs.carrier: category": order({"inputs": inputs(carrier="XX")}),
        "inputs.distance: required": order({"inputs": inputs(distance=None)}),
        "instances.1.inputs.carrier": order({"instances": [{"inputs": inputs()}, {"inputs": inputs(carrier="X")}]}),
        "knows no such entity": order({"inputs": inputs(carrier="DL")}),
        "for other inputs": order({"id": "b-1", "inputs": inputs(flight="other")}),
        "instances.0.features: unknown": order({"inputs": inputs(), "features": {"no.such": 1.0}}),
        "ce_specversion": (b"k", b"{}", [("tm_origin", b"1:2:3")]),
        "inputs must be an object": order(b'{"inputs": "' + b"x" * 900_000 + b'"}'),
    }


async def test_requests_become_predictions_once_and_bad_ones_letters(stack: Stack) -> None:
    good = [order({"id": f"b-{n}", "inputs": inputs(flight=f"F-{n}")}) for n in range(40)]
    several = order({"instances": [{"inputs": inputs()}, {"id": "own", "inputs": inputs()}]}, event_id="several")
    single = order({"inputs": inputs()}, event_id="single")
    await send(stack, [*good, several, single])  # before there is a release: they wait
    await begin(stack)
    wanted = ids([
        *(f"b-{n}" for n in range(40)), request_key("test", "several", 0), "own", request_key("test", "single"),
    ])  # fmt: skip

    async def are_there() -> bool:
        return await predictions(stack) == wanted

    await until(are_there, "every request is answered")
    over_http = (await stack.predict(inputs(flight="F-3"), id="b-3")).json()
    assert over_http["prediction_id"] in wanted

    await bad_ones(stack, good, wanted)
    assert stack.process.stop() == 0


async def bad_ones(stack: Stack, good: list[Sent], wanted: Counter[str]) -> None:
    """Each goes to the dead letters with its rule; what stands behind them in the partition is answered."""
    bad = bad_records()
    await send(stack, [*bad.values(), order({"id": "last", "inputs": inputs()}), *good], partition=0)

    async def are_done() -> bool:
        return await predictions(stack) == wanted + ids(["last"]) and len(await letters(stack)) == len(bad)

    await until(are_done, "the bad ones are dead letters, and those behind them are answered")
    found = await letters(stack)
    said = [letter["tm_dlq_error"] for letter in found]
    for rule in bad:
        assert any(rule in text for text in said), (rule, said)
    assert {letter["tm_dlq_reason"] for letter in found} == {"envelope", "malformed", "request"}
    assert all(letter["tm_origin"] != "1:2:3" for letter in found)
    assert not any("XX" in text or "DL" in text for text in said)

    async def is_committed() -> bool:
        return await committed(stack) == len(good) * 2 + 3 + len(bad)

    await until(is_committed, "the group has done with everything")
    metrics = (await stack.client.get("/metrics")).text
    assert f'tidemill_serving_bulk_letters_total{{pipeline="{SPEC.name}"}} {len(bad)}.0' in metrics


async def test_the_command_sends_a_file_and_tells_what_became_of_each(stack: Stack) -> None:
    await begin(stack)
    lines = [{"id": f"c-{n}", "inputs": inputs(flight=f"F-{n}")} for n in range(500)]
    lines += [inputs(flight="bare"), {"id": "c-0", "inputs": inputs(flight="other")}, {"inputs": inputs(carrier="XX")}]
    file, out = stack.folder / "asks.ndjson", stack.folder / "answers.ndjson"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    code, first = await command(stack, str(file), "--answers", str(out), "--json")
    assert (code, first["sent"], first["answered"], first["refused"], first["known"]) == (1, 503, 501, 2, 0)
    assert sorted(refusal["id"] for refusal in first["refusals"]) in (["501", "502"], ["502", "c-0"])
    answers = {answer["id"]: answer for answer in map(json.loads, out.read_text().splitlines())}
    assert {f"c-{n}" for n in range(500)} | {"500"} <= answers.keys()
    over_http = (await stack.predict(inputs(flight="F-7"), id="c-7")).json()
    assert (answers["c-7"]["prediction_id"], answers["c-7"]["score"]) == (
        over_http["prediction_id"], over_http["score"],
    )  # fmt: skip
    file.write_text("\n".join(json.dumps(line) for line in lines[:500]))
    code, again = await command(stack, str(file), "--json")
    assert (code, again["sent"], again["answered"], again["refused"], again["known"]) == (0, 500, 0, 0, 500)
    assert set((await predictions(stack)).values()) == {1}


async def command(stack: Stack, *arguments: str) -> tuple[int, dict[str, Any]]:
    """`tidemill predict flights FILE --bulk`: its exit code and what it says."""
    environment = {"TIDEMILL_URL_SERVING": stack.process.url, "TIDEMILL_KAFKA": stack.kafka}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tidemill", "predict", SPEC.name, *arguments, "--bulk", stdout=asyncio.subprocess.PIPE,
        env=os.environ | environment | {"TIDEMILL_PREFIX": stack.prefix},
    )  # fmt: skip
    said, _ = await asyncio.wait_for(child.communicate(), 90)
    assert child.returncode is not None
    return child.returncode, json.loads(said)


@pytest.mark.chaos
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


@pytest.mark.chaos
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


async def test_bulk_has_less_of_the_loop_while_others_ask() -> None:
    now = [0.0]
    counts = Counts()
    pace = Pace(counts, lambda: now[0])
    assert pace.rows() == IDLE_ROWS
    counts.rows += 64
    pace.own(64)
    assert pace.rows() == IDLE_ROWS
    counts.rows += 1
    assert pace.rows() == BUSY_ROWS
    now[0] += BUSY_FOR_S + 0.1
    assert pace.rows() == IDLE_ROWS
