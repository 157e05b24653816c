"""Breaches of a stream's quality as causes of trainings: at one place in the merge, whatever arrived when."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from tidemill_contracts import Envelope
from tidemill_contracts.events import (
    Prediction,
    QualityBreached,
    QualityJudged,
    TrainingCoalesced,
    TrainingRequested,
    encode,
)
from tidemill_contracts.ids import prediction_id
from tidemill_contracts.pipeline import parse_pipeline
from tidemill_monitoring.domain import state
from tidemill_monitoring.domain.join import Label
from tidemill_monitoring.domain.merge import OrderedMerge, Row
from tidemill_monitoring.domain.read import QualityReader, Read

MINUTE = 60_000_000
PREDICTIONS, TOPIC = ("predictions", 0), "quality"
PIPELINE = """
version: 1
name: demo
partitions: 2
sources:
  clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean, required: false}},
           quality: {window: 1m, fields: {bought: {max_nulls: 0.1}}}}
  views: {key: [user], fields: {user: {type: string}, ms: {type: float}}, quality: {window: 1m, minimum_rows: 5}}
  other: {key: [user], fields: {user: {type: string}}, quality: {minimum_rows: 5}}
entities: {user: {key: [user]}}
views: {seen: {source: views, entity: user, windows: {1h: {length: 1h}}, aggregations: [{function: count}]}}
request: {key: user, fields: {user: {type: string}}}
label: {source: clicks, join: user, expression: bought, expiry: 1h}
policy: {retrain_on: [quality], cool_down: 4m}
"""
SPEC = parse_pipeline(PIPELINE.encode())


def a_prediction(key: str, at_us: int) -> Prediction:
    """An answer for a key."""
    return Prediction(
        prediction_id=prediction_id("demo", key), pipeline="demo", key=key, at_us=at_us, epoch=1, model="a" * 64,
        version=1, score=0.5, vector=[0.0], features="b" * 64, revisions={}, request={"user": "u"},
    )  # fmt: skip


def breach(source: str, partition: int, minute: int, rule: str = "nulls") -> Envelope:
    """Of the window that ends at a minute."""
    event = QualityBreached(
        source=source, partition=partition, field="bought" if rule == "nulls" else "", rule=rule, value=0.5, bound=0.1,
        rows=10, window_us=((minute - 1) * MINUTE, minute * MINUTE),
    )  # fmt: skip
    return encode(event, id=str(event.quarantine_id), source="/test", time_us=minute * MINUTE)


def judged(source: str, partition: int, minute: int) -> Envelope:
    """Every window up to a minute is judged."""
    event = QualityJudged(source=source, partition=partition, until_us=minute * MINUTE)
    return encode(event, id=f"{source}-{partition}-{minute}", source="/test", time_us=event.until_us)


def lane(source: str, partition: int) -> list[Envelope]:
    """Twenty minutes of a partition: its words in order, breaches before the word that they are judged."""
    broken = {("clicks", 0): {3, 4, 5, 14}, ("clicks", 1): {4}, ("views", 1): {5, 12}, ("other", 0): {2}}
    words = []
    for minute in range(21):
        if minute in broken.get((source, partition), set()):
            words.append(breach(source, partition, minute, "rows" if source == "views" else "nulls"))
        words.append(judged(source, partition, minute))
    return words


LANES = [(source, partition) for source in ("clicks", "views", "other") for partition in (0, 1)]


def topic_of(seed: int) -> list[Envelope]:
    """The one partition of the quality topic: the lanes between one another as the relay happened to write them."""
    draw, waiting, out = random.Random(seed), {each: lane(*each) for each in LANES}, []
    while waiting:
        chosen = draw.choice(sorted(waiting))
        out.append(waiting[chosen].pop(0))
        waiting = {each: words for each, words in waiting.items() if words}
    return out


@dataclass
class Run:
    """The service's merge and fold without Kafka: records come in, decisions go out, it may be killed."""

    words: Sequence[Envelope]
    following: int = 0
    decided: list[str] = field(default_factory=list)
    minutes: int = 0

    def __post_init__(self) -> None:
        self.reader = QualityReader(SPEC, TOPIC)
        self.monitor = state.fresh(SPEC)
        self.start(-(2**62))

    def start(self, released_until_us: int) -> None:
        self.merge = OrderedMerge([PREDICTIONS], released_until_us=released_until_us, lanes=self.reader.lanes())
        self.minutes = 0

    def read(self, count: int) -> None:
        """The next words."""
        for offset in range(self.following, min(self.following + count, len(self.words))):
            read: Read = self.reader.read(self.words[offset], (TOPIC, 0), offset)
            if read.row is not None:
                self.merge.push(read.row)
            if read.watermark_us is not None:
                assert read.lane is not None
                self.merge.advance(read.lane, read.watermark_us, offset)
            self.following = offset + 1
        self.fold()

    def answer(self, count: int) -> None:
        """Predictions of the next minutes."""
        for minute in range(self.minutes, self.minutes + count):
            body = a_prediction(str(minute), minute * MINUTE)
            self.merge.push(Row(body.at_us, str(body.prediction_id), PREDICTIONS, minute, body))
            self.merge.advance(PREDICTIONS, minute * MINUTE)
        self.minutes += count
        self.fold()

    def fold(self) -> None:
        found = self.monitor.fold(self.merge.release())
        self.decided += [f"{d.event_id} {d.event.model_dump_json()}" for d in found.decisions]

    def kill(self) -> None:
        """Go on from what a commit of this moment would have kept."""
        self.following, _ = self.merge.resume((TOPIC, 0), self.following)
        self.monitor = state.load(SPEC, state.dump(self.monitor))
        self.start(self.merge.released_until_us)


def run(seed: int, *, kills: int = 0) -> Run:
    """All of it in an order of arrival, and with kills, that follow from the seed."""
    draw, out, killed = random.Random(seed), Run(topic_of(seed)), 0
    while out.following < len(out.words) or out.minutes < 30:
        out.read(draw.randrange(8)) if draw.random() < 0.7 else out.answer(draw.randrange(3))
        if killed < kills and draw.random() < 0.05:
            out.kill()
            killed += 1
    return out


def causes(monitor_run: Run) -> list[tuple[int, str, str]]:
    """Minute, cause and answer of each decision."""
    out: list[tuple[int, str, str]] = []
    for line in monitor_run.decided:
        body = line.partition(" ")[2]
        kind = TrainingRequested if '"effective_at_us"' in body else TrainingCoalesced
        event = kind.read(body.encode())
        assert event.cause.kind == "quality"
        outcome = event.outcome if isinstance(event, TrainingCoalesced) else "requested"
        out.append((event.at_us // MINUTE, event.cause.detail, outcome))
    return out


def test_a_breach_asks_when_it_begins_two_windows_after_its_own() -> None:
    """Not while it lasts, not for another partition, not for a source that the pipeline does not use."""
    assert causes(run(0)) == [
        (5, "clicks.bought nulls", "requested"),
        (7, "views rows", "coalesced"),
        (14, "views rows", "requested"),
        (16, "clicks.bought nulls", "coalesced"),
    ]


@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_arrival_and_kills_change_no_decision(seed: int) -> None:
    """The same ids and bodies, however the lanes were written, read and cut, and wherever it was killed."""
    assert run(seed, kills=6).decided == run(0).decided


def test_the_merge_waits_for_no_word_that_is_less_than_two_windows_late() -> None:
    """The slack: words about minute 3 let everything before minute 5 go."""
    out = Run([judged(source, partition, 3) for source, partition in LANES])
    out.read(len(LANES))
    out.answer(10)
    assert out.merge.released_until_us == 5 * MINUTE


def test_without_quality_in_the_policy_nobody_waits() -> None:
    """No lanes and no rows."""
    spec = parse_pipeline(PIPELINE.replace("[quality]", "[drift]").encode())
    reader = QualityReader(spec, TOPIC)
    assert reader.lanes() == {}
    assert reader.read(breach("clicks", 0, 3), (TOPIC, 0), 0) == Read()


def test_words_of_partitions_that_the_pipeline_does_not_have_are_passed_over() -> None:
    """A source may have had more partitions once."""
    reader = QualityReader(SPEC, TOPIC)
    assert reader.read(breach("clicks", 2, 3), (TOPIC, 0), 0) == Read()
    assert reader.read(judged("clicks", 2, 3), (TOPIC, 0), 0) == Read()


def test_the_state_of_an_earlier_version_knows_no_breaches() -> None:
    """It is read as it was written."""
    monitor = state.fresh(SPEC)
    raw = state.dump(monitor).replace(b'"breached":{},', b"")
    assert state.load(SPEC, raw).breached == {}


def test_labels_still_join_beside_breaches() -> None:
    """A breach is a row of its own between the others."""
    monitor = state.fresh(SPEC)
    found = QualityReader(SPEC, TOPIC).read(breach("clicks", 0, 3), (TOPIC, 0), 0)
    assert found.row is not None
    prediction, label = a_prediction("k", 1), Label("k", 9 * MINUTE, 1.0, "label", 0, 0)
    rows = [
        Row(1, str(prediction.prediction_id), PREDICTIONS, 0, prediction),
        found.row,
        Row(label.at_us, label.event_id, ("labels", 0), 0, label),
    ]
    assert len(monitor.fold(rows).outcomes) == 1
