"""Requests over Kafka: answered once among the predictions, refused into the dead letters, behind those who wait."""

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from serving_cases import inputs
from serving_load import begin
from serving_orders import SPEC, committed, ids, letters, order, predictions, send, spooled
from serving_stack import Stack, open_stack, until

from tidemill_contracts.ids import request_key
from tidemill_serving.domain.house import Counts
from tidemill_serving.handlers.bulk import BUSY_FOR_S, BUSY_ROWS, IDLE_ROWS, Pace
from tidemill_testkit.topics import Sent

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]


@pytest.fixture
async def stack(kafka_bootstrap: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with open_stack(kafka_bootstrap, f"t-{topic_prefix[-8:]}", tmp_path, SPEC) as opened:
        yield opened


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


async def test_who_dies_between_answers_and_their_commit_answers_anew_and_nobody_sees_it(stack: Stack) -> None:
    await begin(stack)
    names = [f"w-{n}" for n in range(300)]
    before = spooled(stack.process)
    await send(stack, [order({"id": name, "inputs": inputs(flight=name)}) for name in names])
    await until(lambda: spooled(stack.process) > before, "some are answered")
    stack.process.stop(signal.SIGKILL)
    stack.process.start()

    async def are_there() -> bool:
        return await committed(stack) == len(names)

    await until(are_there, "all are done")
    assert await predictions(stack) == ids(names)
    for name in names[:3]:  # whichever of its two answers left
        answer = await stack.predict(inputs(flight=name), id=name)
        assert answer.status_code == 200
    assert await predictions(stack) == ids(names)


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
