"""What a release is measured against: it comes with the release, goes and returns with it, and is waited for."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tidemill_contracts import topic
from tidemill_contracts.events import DriftReference, Member, Prediction, Released, ReleaseReason, encode
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.pipeline import DriftSpec, MonitorSpec, parse_pipeline
from tidemill_contracts.topics import control_topics
from tidemill_engine.drift import HistogramReference
from tidemill_monitoring.domain import state
from tidemill_monitoring.domain.anchors import UNNAMED, Anchor, read_reference
from tidemill_monitoring.domain.merge import OrderedMerge, Row
from tidemill_monitoring.domain.watch import Watch
from tidemill_monitoring.handlers import MergeTask, envelope_reader
from tidemill_monitoring.releases import References
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.kafka import close_client, ensure_topics, open_producer
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.fixtures import unique_name
from tidemill_testkit.waiting import until

PANE, ROWS = 1000, 300
DRIFT = DriftSpec(population_pane=PANE, population_reference_rows=600, population_panes=2)
PIPELINE = b"""
version: 1
name: demo
partitions: 1
sources: {clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean}}}}
request: {key: user, fields: {user: {type: string}}, features: {a: "1"}}
label: {source: clicks, join: user, expression: bought}
"""


def reference(center: float, name: str = "request.a") -> bytes:
    """Of a model that learned from values around `center`."""
    dice = np.random.default_rng(1)
    values = np.column_stack([dice.normal(center, size=5000), np.full(5000, 0.5)]).astype(np.float32)
    found = HistogramReference.fit(values, [name, "score"])
    columns = found.to_dict()["columns"]
    return json.dumps({
        "format": "tidemill.drift-reference.v1", "model": "a" * 64, "rows": 5000, "score_rows": "gate",
        "columns": columns,
    }).encode()  # fmt: skip


LOW, HIGH = (read_reference(digit * 64, reference(center)) for digit, center in (("1", 0.0), ("2", 3.0)))


def a_prediction(key: str, at_us: int, value: float, epoch: int, model: str) -> Prediction:
    return Prediction(
        prediction_id=prediction_id("demo", key), pipeline="demo", key=key, at_us=at_us, epoch=epoch, model=model * 64,
        version=1, score=0.5, vector=[value], features="b" * 64, revisions={}, request={"user": "u"},
    )  # fmt: skip


Stage = tuple[int, str, Anchor | None, Sequence[float]]


def watched(*stages: Stage, restart: bool = False) -> tuple[list[tuple[int, int]], Watch]:
    """Epoch and pane of the findings when releases answer rows around these centers, a pane each."""
    dice, found, pane = np.random.default_rng(5), list[tuple[int, int]](), 0
    watch = Watch(MonitorSpec(drift=DRIFT), ["request.a"])
    for epoch, model, anchor, centers in stages:
        for center in centers:
            for row in range(ROWS):
                at_us = pane * PANE + row
                body = a_prediction(f"{pane}-{row}", at_us, float(dice.normal(center)), epoch, model)
                if watch.asks(body) and anchor is not None:
                    watch.learn({epoch: anchor})
                found += [(epoch, pane) for _ in watch.on_prediction(body, at_us)]
            if restart:
                kept = json.loads(json.dumps(watch.to_state()))
                watch = Watch(MonitorSpec(drift=DRIFT), ["request.a"])
                watch.load(kept)
            pane += 1
    return found, watch


@pytest.mark.parametrize("restart", [False, True])
def test_panes_are_compared_with_what_the_release_names_from_its_first_row(*, restart: bool) -> None:
    """Live rows that differ from the training's are told at once; before, they were the reference themselves."""
    found, watch = watched((1, "a", LOW, [3, 3, 3, 3]), restart=restart)
    assert found == [(1, 2)]
    assert (watch.population.digest, watch.population.reference_rows) == ("1" * 64, 5000)
    assert watched((1, "a", LOW, [0, 0, 0, 0]), restart=restart)[0] == []


@pytest.mark.parametrize("restart", [False, True])
def test_a_rollback_brings_the_reference_back(*, restart: bool) -> None:
    stages = [(1, "a", LOW, [0.0, 0.0, 0.0]), (2, "b", HIGH, [3.0, 3.0, 3.0]), (3, "a", LOW, [3.0, 3.0, 3.0])]
    found, watch = watched(*stages, restart=restart)
    assert found == [(3, 8)], "the same rows are as they should be for one release and not for the other"
    assert watch.population.digest == "1" * 64


def test_a_release_of_the_same_model_and_reference_begins_nothing_anew() -> None:
    assert watched((1, "a", LOW, [0, 3]), (2, "a", LOW, [3, 3, 3]))[0] == [(2, 3)]


def test_without_a_reference_the_first_rows_are_it_and_are_kept_for_the_models_return() -> None:
    none = Anchor()
    stages: list[Stage] = [(1, "a", none, [3.0] * 3), (2, "b", LOW, [0.0] * 2), (3, "a", none, [0.0] * 4)]
    found, watch = watched(*stages)
    assert found == [(3, 7)]
    assert (watch.population.digest, watch.population.why, watch.population.reference_rows) == (None, UNNAMED, 600)


def test_a_reference_of_other_features_is_none() -> None:
    other = read_reference("3" * 64, reference(0, "request.b"))
    assert other.reference is not None
    _, watch = watched((1, "a", other, [3.0] * 3))
    assert (watch.population.digest, watch.population.why) == (None, "its reference is of other features")


@pytest.mark.parametrize("spoil", [
    b"", b"[]", b'{"pipeline": "demo", "window": "all"}', b"\x80\x04K\x01.",
    reference(0).replace(b"reference.v1", b"reference.v2"), reference(0).replace(b'"rows": 5000', b'"rows": -1'),
    reference(0).replace(b'"discrete": true, "counts": [', b'"discrete": true, "counts": [1, '),
    reference(0).replace(b'"edges": [', b'"edges": [1e9, '), reference(0).replace(b'"edges": [', b'"edges": [NaN, '),
])  # fmt: skip
def test_what_is_no_reference_is_none(spoil: bytes) -> None:
    found = read_reference("1" * 64, spoil)
    assert (found.digest, found.reference, found.why) == (None, None, "what its release names is no reference")


def a_release(epoch: int, digest: str | None) -> Released:
    return Released(
        pipeline="demo", epoch=epoch, members=[Member(name="champion", model="a" * 64, version=1)], views={},
        features=["request.a"], reference=digest, spec="c" * 64, policy="d" * 64, at_us=epoch,
        reason=ReleaseReason(kind="hand"),
    )  # fmt: skip


@pytest.mark.anyio
async def test_references_of_the_topic_and_the_store(kafka_bootstrap: str, postgres_dsn: str, tmp_path: Path) -> None:
    """An old record, a manifest, a reference, one that is too large, one that was changed, and a record yet to come."""
    settings = ServiceSettings(
        kafka=kafka_bootstrap, postgres=postgres_dsn, artifacts=str(tmp_path), state=tmp_path, prefix=unique_name("t")
    )
    store, name = Artifacts(tmp_path), topic("releases", prefix=settings.prefix)
    await ensure_topics(settings.kafka, control_topics(prefix=settings.prefix))
    good, manifest, large, changed = (
        store.put(raw) for raw in (reference(0), b'{"pipeline": "demo"}', bytes(17 << 20), b"more")
    )
    await asyncio.to_thread(Path(store.path(changed)).write_bytes, b"less")
    named = {2: None, 3: manifest, 4: good, 5: large, 6: changed, 7: "9" * 64}
    producer = await open_producer(settings)

    async def release(epoch: int, digest: str | None) -> None:
        envelope = encode(a_release(epoch, digest), id=str(epoch), source="test", time_us=epoch)
        await producer.send_and_wait(name, value=envelope.data, key=b"demo", headers=envelope.headers())

    references, hasty = References(settings), References(settings, patience_s=1.0)
    tasks = [asyncio.create_task(each.run()) for each in (references, hasty)]
    try:
        for epoch, digest in named.items():
            await release(epoch, digest)
        assert (await references.anchor("demo", 4)).digest == good
        whys = [(await references.anchor("demo", epoch)).why for epoch in (1, 2, 3, 5, 6)]
        assert whys == [
            "its release is older than what the topic keeps", UNNAMED, "what its release names is no reference",
            "its reference cannot be used: ArtifactTooLarge", "its reference cannot be used: ArtifactCorrupt",
        ]  # fmt: skip
        assert (await hasty.anchor("demo", 7)).why == "its reference cannot be read: ArtifactMissing"
        assert (await hasty.anchor("demo", 8)).why == "its release is not on the topic"
        waits = asyncio.create_task(references.anchor("demo", 8))
        await release(8, good)
        assert (await waits).digest == good
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await close_client(producer)


class Names:
    """Who tells what a release names once it is asked to, and the sink of a merge that writes nothing."""

    def __init__(self) -> None:
        self.told, self.asked = asyncio.Event(), list[int]()

    async def anchor(self, _pipeline: str, epoch: int) -> Anchor:
        self.asked.append(epoch)
        await self.told.wait()
        return LOW

    async def publish(self, _outcomes: object) -> None: ...
    async def commit(self, _decisions: object) -> None: ...
    async def dead_letter(self, _record: object, _reason: str) -> None: ...
    async def declare_gone(self, *_: object) -> None: ...


@pytest.mark.anyio
async def test_rows_of_a_release_wait_until_it_is_known_what_they_are_compared_with() -> None:
    spec, place = parse_pipeline(PIPELINE), ("predictions", 0)
    merge, names = OrderedMerge([place]), Names()
    rows = [a_prediction(str(number), number, 0.0, 1 + number // 6, "a") for number in range(10)]
    for number, body in enumerate(rows):
        merge.push(Row(body.at_us, str(body.prediction_id), place, number, body))
    merge.advance(place, 100, 10)
    task = MergeTask(merge, state.fresh(spec), envelope_reader({}), names, 1000.0, references=names)
    running = asyncio.create_task(task.run())
    try:
        await until(lambda: names.asked == [1], "the first release is asked for")
        assert task.monitor.join.counts.predictions == 0
        names.told.set()
        await until(lambda: task.monitor.join.counts.predictions == 10, "all rows are folded")
        assert names.asked == [1, 2]
        assert task.monitor.watch.population.digest == "1" * 64
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_the_artifact_and_the_contract_agree() -> None:
    assert [column.name for column in DriftReference.model_validate_json(reference(0)).columns] == [
        "request.a",
        "score",
    ]
