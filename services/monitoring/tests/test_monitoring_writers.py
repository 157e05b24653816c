"""Several replicas write one log: nobody makes another's answers late, and every reader comes to the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill_contracts import read_envelope, topic
from tidemill_contracts.events import Timer, encode
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_contracts.topics import pipeline_topics
from tidemill_monitoring import store
from tidemill_monitoring.domain import state
from tidemill_monitoring.domain.merge import Input, OrderedMerge, Row
from tidemill_monitoring.domain.read import Read, read_prediction
from tidemill_monitoring.domain.writers import MOST, NEVER, NOTHING, Progress
from tidemill_monitoring.kafka import LogAndStore
from tidemill_monitoring.silence import Silence
from tidemill_runtime.kafka import close_client, ensure_topics, open_consumer, open_producer
from tidemill_runtime.postgres import migrate, open_pool
from tidemill_runtime.settings import ServiceSettings

pytestmark = pytest.mark.anyio
PIPELINE = b"""
version: 1
name: demo
sources: {clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean}}}}
request: {key: user, fields: {user: {type: string}}, features: {a: "1"}}
label: {source: clicks, join: user, expression: bought}
"""
PLACES: list[Input] = [("predictions", 0), ("predictions", 1)]
A, B = "tidemill/serving/0", "tidemill/serving/1"


def test_what_all_have_passed_is_the_lowest_word() -> None:
    progress = NOTHING.told(A, 100)
    assert progress.watermark_us == 100
    progress = progress.told(B, 50)
    assert progress.watermark_us == 100, "what was reached is not taken back"
    progress = progress.told(A, 200)
    assert progress.watermark_us == 100, "B has told of no more than 50"
    assert progress.told(B, 150).watermark_us == 150
    assert progress.told(B, 40) is progress


def test_a_writer_that_has_gone_holds_nobody_up() -> None:
    progress = NOTHING.told(A, 10).told(B, 10).told(A, 500)
    assert progress.watermark_us == 10
    assert progress.laggards() == [B]
    progress = progress.gone(B)
    assert progress.watermark_us == 500
    assert progress.told(B, 20).told(A, 600).watermark_us == 500, "its next word makes it one again"
    assert progress.gone(A).watermark_us == 500
    assert progress.gone("nobody") == progress


def test_writers_are_bounded() -> None:
    progress = NOTHING
    for number in range(MOST + 10):
        progress = progress.told(f"w{number}", number)
    assert len(progress.writers) == MOST
    assert progress.watermark_us >= 10 - 1


def test_the_timer_of_one_replica_makes_no_answer_of_another_late() -> None:
    merge = OrderedMerge(PLACES[:1])
    place = PLACES[0]
    merge.tell(place, merge.progress(place).told(A, 10).told(B, 10))
    merge.tell(place, merge.progress(place).told(A, 1000))
    assert merge.push(Row(20, "late", place, 5, None))
    assert merge.release() == []
    merge.tell(place, merge.progress(place).told(B, 900))
    assert [(row.id, row.at_us) for row in merge.release()] == [("late", 20)]
    assert (merge.dropped, merge.raised) == (0, 0)


def test_a_row_below_what_was_reached_is_read_there_and_not_lost() -> None:
    merge = OrderedMerge(PLACES[:1])
    place = PLACES[0]
    merge.tell(place, merge.progress(place).told(A, 1000))
    assert merge.release() == []
    assert merge.push(Row(20, "of a new replica", place, 5, None))
    merge.tell(place, merge.progress(place).told(A, 2000))
    assert [(row.id, row.at_us) for row in merge.release()] == [("of a new replica", 1000)]
    assert (merge.dropped, merge.raised) == (0, 1)


@pytest.mark.parametrize(
    ("reason", "writer", "is_gone"), [("progress", None, False), ("silent", B, True), ("left", None, True)]
)
def test_timers_are_read_as_the_word_of_their_writer(reason: str, writer: str | None, is_gone: bool) -> None:
    timer = Timer(source="demo", time_us=7, reason=reason, writer=writer)
    envelope = encode(timer, id="t", source=A, time_us=7)
    assert read_prediction(envelope, PLACES[0], 3) == Read(watermark_us=7, writer=writer or A, is_gone=is_gone)


@dataclass(frozen=True)
class Word:
    writer: str
    time_us: int
    is_gone: bool = False


Log = dict[Input, list[Row | Word]]


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Two partitions; each writer keeps its own promise, whatever the others say; some come late and some go."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    log: Log = {place: [] for place in PLACES}
    floors = dict.fromkeys([A, B, "c"][: draw(st.integers(1, 3))], 0)
    for number in range(draw(st.integers(5, 60))):
        writer, place = chance.choice(list(floors)), chance.choice(PLACES)
        if chance.random() < 0.3:
            floors[writer] += chance.randrange(50)
            for each in PLACES:
                log[each].append(Word(writer, floors[writer]))
        elif chance.random() < 0.05:
            log[place].append(Word(writer, 0, is_gone=True))
        else:
            at_us = floors[writer] + chance.randrange(60)
            log[place].append(Row(at_us, f"{number:03}", place, len(log[place]), None))
    return log


def feed(merge: OrderedMerge, place: Input, record: Row | Word) -> None:
    if isinstance(record, Row):
        merge.push(record)
    else:
        progress = merge.progress(place)
        told = progress.gone(record.writer) if record.is_gone else progress.told(record.writer, record.time_us)
        merge.tell(place, told)


def read(log: Log, turns: Sequence[Input], *, restart_at: int | None = None) -> list[tuple[int, str]]:
    """What is released when partitions are read by turns, with a restart from a checkpoint after some records."""
    merge, following, out = OrderedMerge(PLACES), dict.fromkeys(PLACES, 0), list[tuple[int, str]]()
    for count, place in enumerate(turns):
        if count == restart_at:
            points = {source: merge.resume(source, following[source]) for source in PLACES}
            progress = {source: found for source, (_, found) in points.items()}
            merge = OrderedMerge(PLACES, released_until_us=merge.released_until_us, progress=progress)
            following = {source: offset for source, (offset, _) in points.items()}
        if following[place] < len(log[place]):
            feed(merge, place, log[place][following[place]])
            following[place] += 1
            out += [(row.at_us, row.id) for row in merge.release()]
    for place in PLACES:
        for record in log[place][following[place] :]:
            feed(merge, place, record)
        merge.tell(place, Progress(10**9))
    return out + [(row.at_us, row.id) for row in merge.release()]


@given(logs(), st.integers(0, 2**32))
@settings(max_examples=200)
def test_every_reader_comes_to_the_same_and_nothing_is_lost(log: Log, seed: int) -> None:
    """Whatever order partitions are read in, and wherever a reader starts again."""
    chance = random.Random(seed)
    straight = [place for place in PLACES for _ in log[place]]
    shuffled = chance.sample(straight, len(straight))
    expected = read(log, straight)
    rows = [record.id for records in log.values() for record in records if isinstance(record, Row)]
    assert sorted(identity for _, identity in expected) == sorted(rows)
    assert [at_us for at_us, _ in expected] == sorted(at_us for at_us, _ in expected)
    assert read(log, shuffled) == expected
    assert read(log, shuffled * 2, restart_at=chance.randrange(len(shuffled) + 1)) == expected


def spoken(silence: Silence, merge: OrderedMerge, **words: int) -> None:
    for writer, time_us in words.items():
        merge.tell(PLACES[0], merge.progress(PLACES[0]).told(writer, time_us))
        silence.heard(PLACES[0], writer)


def test_only_who_holds_others_up_without_a_word_is_proposed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tidemill_monitoring.silence.time.monotonic", lambda: now[0])
    merge, silence = OrderedMerge(PLACES[:1]), Silence(60.0)
    spoken(silence, merge, a=10, b=10)
    now[0] = 50.0
    spoken(silence, merge, a=20)
    assert list(silence.silent(merge)) == []
    now[0] = 70.0
    assert list(silence.silent(merge)) == [(PLACES[0], "b")]
    now[0] = 75.0
    assert list(silence.silent(merge)) == [], "told once"
    spoken(silence, merge, b=20)
    now[0] = 140.0
    assert list(silence.silent(merge)) == [], "nobody is behind"


def test_after_an_outage_of_all_nobody_is_taken_for_gone_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tidemill_monitoring.silence.time.monotonic", lambda: now[0])
    merge, silence = OrderedMerge(PLACES[:1]), Silence(60.0)
    spoken(silence, merge, a=10, b=10)
    now[0] = 3600.0
    spoken(silence, merge, a=20)
    now[0] = 3602.0
    assert list(silence.silent(merge)) == []
    now[0] = 3659.0
    spoken(silence, merge, a=30)
    now[0] = 3661.0
    assert list(silence.silent(merge)) == [(PLACES[0], "b")]
    assert NOTHING.watermark_us == NEVER


async def test_what_writers_had_said_moves_with_the_position(postgres_dsn: str) -> None:
    """The next owner of a merge begins with the words that stand before the record it reads first."""
    pool = await open_pool(postgres_dsn, max_size=2)
    try:
        await migrate(pool, store.SCHEMA, "tidemill_monitoring")
        merge = OrderedMerge(PLACES)
        for place in PLACES:
            merge.tell(place, merge.progress(place).told(A, 100).told(B, 90))
        merge.push(Row(150, "waits", PLACES[0], 7, None))
        merge.tell(PLACES[0], merge.progress(PLACES[0]).told(B, 140))
        claim = await store.claim(pool, "demo")
        assert claim.progress == {}
        places = {place: merge.resume(place, 9) for place in PLACES}
        point = store.Checkpoint(
            released_until_us=100, state=b"", positions={place: offset for place, (offset, _) in places.items()},
            progress={place: found for place, (_, found) in places.items()}, added=[], removed=[], outcomes=[],
            metrics={}, decisions=[],
        )  # fmt: skip
        await store.save(pool, "t", "demo", claim.generation, point)
        again = await store.claim(pool, "demo")
        assert again.positions == {PLACES[0]: 7, PLACES[1]: 9}
        assert again.progress == {place: Progress(100, {A: 100, B: 90}) for place in PLACES}
    finally:
        await pool.close()


async def test_a_silent_writer_is_declared_gone_in_the_log(
    kafka_bootstrap: str, topic_prefix: str, tmp_path: Path
) -> None:
    """What the clock proposes stands in the partition it is about, and reads as the word that the writer has gone."""
    topics = pipeline_topics("demo", 2, prefix=topic_prefix)
    await ensure_topics(kafka_bootstrap, topics)
    service = ServiceSettings(kafka=kafka_bootstrap, postgres="-", artifacts="-", state=tmp_path)
    name = topic("predictions", "demo", prefix=topic_prefix)
    producer = await open_producer(service)
    consumer = await open_consumer(service)
    try:
        monitor = state.fresh(parse_pipeline(PIPELINE))
        merge, following = OrderedMerge([(name, 1)]), {(name, 1): 0}
        sink = LogAndStore(topic_prefix, None, producer, 1, merge, monitor, following, [])  # type: ignore[arg-type]
        await sink.declare_gone((name, 1), B, 70)
        place = TopicPartition(name, 1)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        (record,) = (await consumer.getmany(place, timeout_ms=30_000))[place]
        read = read_prediction(read_envelope(record.headers, record.value), (name, 1), record.offset)
        assert read == Read(watermark_us=70, writer=B, is_gone=True)
    finally:
        await close_client(consumer)
        await close_client(producer)
