"""Parity on a sample: a child computes the newest answers again, and what differs is counted."""

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from tidemill_contracts import format_time, topic
from tidemill_contracts.events import (
    Event,
    Member,
    PipelineApplied,
    Prediction,
    Released,
    ReleaseReason,
    Timer,
    ViewRevision,
    encode,
)
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_contracts.topics import control_topics, pipeline_topics
from tidemill_engine.entities import event_mark
from tidemill_engine.windows import ViewState, compile_view
from tidemill_monitoring import process
from tidemill_monitoring.process import CHECKED, FAILED, MISMATCHES, ParitySampler, SampleFailedError, sample
from tidemill_monitoring.worker import Order, Told
from tidemill_runtime.archive import archive_path
from tidemill_runtime.kafka import ensure_topics
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.fixtures import unique_name
from tidemill_testkit.settings import environment
from tidemill_testkit.topics import Sent, write_topic
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
MINUTE = 60_000_000
BASE = 20_000 * 1440 * MINUTE
DIGEST = "1" * 64
SPEC: PipelineSpec = parse_pipeline(
    b"""
version: 1
name: shop
partitions: 1
sources: {sales: {key: [shop], time: at, fields: {
  shop: {type: string}, at: {type: timestamp}, price: {type: float}}}}
entities: {shop: {key: [shop]}}
views: {till: {source: sales, entity: shop, windows: {1h: {length: 1h}},
  aggregations: [{function: mean, field: price}]}}
request: {key: id, fields: {id: {type: string}, shop: {type: string}}, features: {one: "1"}}
label: {source: sales, join: shop, expression: price > 1}
"""
)
NAMES = SPEC.feature_names()


def world(artifacts: str, count: int) -> list[Prediction]:
    """An archive of sales in two shops, and a prediction after each sale of the first; the last one is off by 1e-9."""
    state = ViewState(compile_view(SPEC.views["till"], SPEC.sources["sales"]))
    rows, out = list[dict[str, Any]](), list[Prediction]()
    for seq in range(count):
        shop, at, price = "ab"[seq % 2], BASE + seq * MINUTE, 0.1 * seq
        body = json.dumps({"shop": shop, "at": format_time(at), "price": price})
        rows.append(
            {"partition": 0, "seq": seq, "offset": 2 * seq, "raw_offset": seq, "id": f"e{seq}", "event_us": at,
             "ingest_us": 0, "key": shop, "body": body, "outcome": "applied"}
        )  # fmt: skip
        mark, place = np.array([event_mark(f"e{seq}")], np.uint64), (np.zeros(1, np.int32), np.array([seq]))
        row = state.apply([shop.encode()], np.array([at]), mark, np.array([[price]]), place)
        if shop == "a":
            values, evaluated, revision = state.vectors(row)
            read = ViewRevision(entity="a", revision=int(revision[0]), at_us=int(evaluated[0]), positions={"0": seq})
            off = 1e-9 if seq == count - 2 else 0.0
            out.append(
                Prediction(
                    prediction_id=UUID(int=seq),
                    pipeline="shop",
                    key="k",
                    at_us=at,
                    epoch=1,
                    model=DIGEST,
                    version=1,
                    score=0.5,
                    vector=[float(values[0, 0]) + off, 1.0],
                    features=SPEC.vector_digest(NAMES),
                    revisions={"till": read},
                    request={"id": "k", "shop": "a"},
                )
            )
    write_deltalake(archive_path(artifacts, "sales"), pa.Table.from_pylist(rows))
    return out


def sent(*events: Event) -> list[Sent]:
    envelopes = [encode(each, id=str(number), source="/t", time_us=0) for number, each in enumerate(events)]
    return [(b"shop", each.data, each.headers()) for each in envelopes]


async def put(settings: ServiceSettings, predictions: list[Prediction]) -> None:
    """The pipeline, its release, and a log with more than predictions in it."""
    prefix = settings.prefix
    await ensure_topics(settings.kafka, [*control_topics(prefix=prefix), *pipeline_topics("shop", 1, prefix=prefix)])
    applied = PipelineApplied(pipeline="shop", revision=1, digest=SPEC.digest(), spec=SPEC.model_dump(mode="json"))
    release = Released(
        pipeline="shop", epoch=1, members=[Member(name="m", model=DIGEST, version=1)],
        views={"till": SPEC.view_version("till")}, features=NAMES, spec=SPEC.digest(), policy=DIGEST, at_us=BASE,
        reason=ReleaseReason(kind="first"),
    )  # fmt: skip
    await write_topic(settings, topic("pipelines", prefix=prefix), sent(applied))
    await write_topic(settings, topic("releases", prefix=prefix), sent(release))
    garbage: Sent = (b"k", b"{", [])
    log = [garbage, *sent(Timer(source="shop", time_us=1), *predictions)]
    await write_topic(settings, topic("predictions", "shop", prefix=prefix), log)


@pytest.mark.timeout(600)
async def test_a_child_finds_what_differs_and_goes_on_from_there(
    kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres=postgres_dsn, artifacts=str(tmp_path / "a"), state=tmp_path,
        prefix=unique_name("p"),
    )  # fmt: skip
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    await put(settings, world(settings.artifacts, 20))
    told = await sample(Order(one_in=1))
    found = told.pipelines["shop"]
    assert (found["checked"], found["mismatches"], found["unknown"]) == (10, 1, 0)
    assert found["features"] == {"till.price_mean_1h": 1}
    assert (found["first"][0]["entity"], found["first"][0]["since"]) == ("a", ["sales", 0, 18, 36, "e18"])
    again = await sample(Order(one_in=1, after=told.after))
    assert again.pipelines["shop"]["checked"] == 0
    assert again.after == told.after
    third = await sample(Order(one_in=3, newest=6))
    assert third.pipelines["shop"]["checked"] == 2, "ids 12 and 18 of the newest five predictions"

    monkeypatch.setenv("TIDEMILL_ARTIFACTS", str(tmp_path / "nowhere"))
    monkeypatch.setenv("TIDEMILL_KAFKA", "not an address")
    with pytest.raises(SampleFailedError, match="status 1"):
        await sample(Order())


async def test_samples_are_counted_and_failures_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    orders = list[Order]()

    async def taken(order: Order) -> Told:
        orders.append(order)
        if len(orders) == 2:
            raise SampleFailedError("away")
        found = {"checked": 10, "mismatches": 1, "first": [{}]}
        return Told(pipelines={"counted": found}, after={"t/0": 7 * len(orders)})

    monkeypatch.setattr(process, "sample", taken)
    monkeypatch.setattr(process, "PAUSE", 0)
    failures = FAILED._value.get()
    task = asyncio.create_task(ParitySampler(0.001, one_in=5).run())

    async def went_on() -> bool:
        return len(orders) > 3

    await until(went_on, "four samples", timeout_s=30)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert [order.after for order in orders[:3]] == [{}, {"t/0": 7}, {"t/0": 7}]
    assert orders[0].one_in == 5
    assert FAILED._value.get() == failures + 1
    checked, wrong = CHECKED.labels("counted")._value.get(), MISMATCHES.labels("counted")._value.get()
    assert checked == 10 * wrong >= 20
