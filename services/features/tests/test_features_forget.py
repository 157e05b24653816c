"""State and topics of view versions that no file names go after a while, and of no other."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from features_cases import views

from tidemill_contracts.topics import TopicSpec, topic
from tidemill_features.domain.marks import Capture, Marks
from tidemill_features.domain.route import RouteMarks
from tidemill_features.domain.views import View
from tidemill_features.handlers.forget import forget, topics_of
from tidemill_features.store import Store
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Later
from tidemill_runtime.kafka import delete_topics, ensure_topics
from tidemill_runtime.postgres import Pool
from tidemill_testkit.waiting import until

pytestmark = pytest.mark.anyio
MARKS = Marks(7, {0: 3}, {0: 100}, 50)
NEW = views()["by-carrier"]
OLD = replace(NEW, version="0" * 16)
HOUR_S = 3600.0
SMALL, LARGE = [(b"k", b"x")], [(b"%06d" % n, b"%d" % (n * 7919)) for n in range(400)]


def named(*read: View) -> set[tuple[str, str]]:
    return {(view.name, view.version) for view in read}


@pytest.fixture
async def store(pool: Pool, tmp_path: Path) -> Store:
    """State of two versions, in Postgres and in the artifacts."""
    made = Store(pool, Artifacts(tmp_path), inline_bytes=200)
    for partition, entries in enumerate((SMALL, LARGE)):
        owner = await made.own(partition)
        for view in (OLD, NEW):
            await made.load(owner, view)
        await made.save(owner, [(view, Capture(list(entries), MARKS)) for view in (OLD, NEW)])
        await made.save_routes(partition, [(view, RouteMarks(9, 4, 20)) for view in (OLD, NEW)])
    return made


def artifacts(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


async def held(store: Store, view: View) -> list[object]:
    owners = [await store.own(partition) for partition in range(2)]
    return [await store.load(owner, view) for owner in owners] + [await store.load_route(view, 0)]


EVERYTHING: list[object] = [(MARKS, SMALL), (MARKS, LARGE), RouteMarks(9, 4, 20)]
NOTHING: list[object] = [(Marks(), []), (Marks(), []), RouteMarks()]


async def age(pool: Pool, seconds: float) -> None:
    """Let time pass for what is unread."""
    await pool.execute("UPDATE features.unread SET since = since - make_interval(secs => $1)", seconds)


async def test_what_no_file_names_goes_after_its_time(store: Store, pool: Pool, tmp_path: Path) -> None:
    assert artifacts(tmp_path) == 2
    assert await store.forget(named(NEW), after_s=HOUR_S) == []
    await age(pool, HOUR_S / 2)
    assert await store.forget(named(NEW), after_s=HOUR_S) == []
    await age(pool, HOUR_S / 2)
    assert await store.forget(named(NEW), after_s=HOUR_S) == [(OLD.name, OLD.version)]
    assert artifacts(tmp_path) == 1
    assert await held(store, NEW) == EVERYTHING
    assert await held(store, OLD) == NOTHING


async def test_one_that_is_named_again_or_loaded_starts_its_time_anew(store: Store, pool: Pool) -> None:
    await store.forget(named(NEW), after_s=HOUR_S)
    await age(pool, HOUR_S)
    await store.forget(named(NEW, OLD), after_s=HOUR_S)
    assert await store.forget(named(NEW), after_s=HOUR_S) == []
    await age(pool, HOUR_S)
    assert await held(store, OLD) == EVERYTHING
    assert await store.forget(named(NEW), after_s=HOUR_S) == []
    await age(pool, HOUR_S)
    assert await store.forget(named(NEW), after_s=HOUR_S) == [(OLD.name, OLD.version)]


async def test_the_topics_go_too_also_after_an_interruption(store: Store, kafka_bootstrap: str) -> None:
    prefix = f"t-{uuid4().hex[:8]}"
    old, new = (topics_of((view.name, view.version), prefix) for view in (OLD, NEW))
    events = topic("events", "trades", prefix=prefix)
    await ensure_topics(kafka_bootstrap, [TopicSpec(name, 1) for name in (*old, *new, events)])

    async def refuse(_: Sequence[str]) -> None:
        raise Later("the broker is away")

    with pytest.raises(Later):
        await forget(store, refuse, named(NEW), prefix=prefix, after_s=0)
    remove = partial(delete_topics, kafka_bootstrap)
    assert await forget(store, remove, named(NEW), prefix=prefix, after_s=HOUR_S) == [(OLD.name, OLD.version)]
    await until(lambda: _exist(kafka_bootstrap, {*old, *new, events}, {*new, events}), "only the old ones are gone")
    assert await forget(store, remove, named(NEW), prefix=prefix, after_s=0) == []


async def _exist(kafka: str, among: set[str], expected: set[str]) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        return among.intersection(await admin.list_topics()) == expected
    finally:
        await admin.close()
