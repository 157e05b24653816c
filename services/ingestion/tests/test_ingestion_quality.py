"""Quality of a partition's stream: windows by event time, judged by the watermark, whatever the cuts of batches are."""

import json
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from ingestion_cases import MINUTE, Rec, tail_of, timer
from ingestion_stack import PIPELINE

from tidemill_contracts import derived_id, format_time, parse_time
from tidemill_contracts.events import QualityBreached, QualityJudged
from tidemill_contracts.pipeline import QualitySpec, parse_pipeline
from tidemill_ingestion.domain.decide import Position, decide
from tidemill_ingestion.domain.quality import MOST_RANGES, Breach, State, observe
from tidemill_ingestion.domain.readings import read
from tidemill_ingestion.domain.source import Source

TEN = parse_time("2013-01-01T10:00:00Z")
HOUR = 60 * MINUTE
TAIL = tail_of(0)


def source(quality: str, *, lateness: str = "10m") -> Source:
    """The test's flights with bounds on their quality."""
    text = PIPELINE.replace("allowed_lateness: 1h", f"allowed_lateness: {lateness}\n    quality: {quality}", 1)
    spec = parse_pipeline(text.encode())
    return Source.compile("flights", spec.sources["flights"], spec.partitions)


NULLS = source("{window: 1h, judge_from: 5, fields: {seats: {max_nulls: 0.04}}}")


def flight(of: Source, offset: int, at_us: int, **values: Any) -> Rec:  # noqa: ANN401 - any JSON
    data = {"tail": TAIL, "at": format_time(at_us), "delay": 1.0, **values}
    event = of.event(f"e{offset}", None, data, of.context(), "", [])
    assert event is not None
    return Rec(offset, event.data, event.envelope().headers(), event.key)


class Stream:
    """One partition's operator without its store."""

    def __init__(self, of: Source) -> None:
        self.source, self.position, self.state = of, Position(), b""
        self.breaches: list[Breach] = []
        self.until: list[int] = []

    def take(self, records: Sequence[Rec]) -> "Stream":
        before = self.position
        batch = decide(self.source, [(r, read(self.source, r)) for r in records], {}, before)
        judged = observe(self.source, 0, self.state, batch.emits, before)
        self.position, self.state = batch.position, judged.state
        self.breaches += judged.breaches
        self.until += [] if judged.until is None else [QualityJudged.read(judged.until.data).until_us]
        return self

    @property
    def told(self) -> list[tuple[str, str, float, tuple[int, int] | None]]:
        return [(each.event.field, each.event.rule, each.event.value, each.event.numbers) for each in self.breaches]


def minutes(of: Source, count: int, nulls: Sequence[int], *, start: int = TEN, offset: int = 0) -> list[Rec]:
    """One event a minute; those at `nulls` lack their seats."""
    return [flight(of, offset + n, start + n * MINUTE, **({} if n in nulls else {"seats": 100})) for n in range(count)]


def test_five_in_a_hundred_nulls_are_told_by_the_first_event_behind_the_window() -> None:
    stream = Stream(NULLS).take(minutes(NULLS, 70, (3, 30, 59)))
    assert stream.told == []
    stream.take([flight(NULLS, 70, TEN + 70 * MINUTE, seats=1)])
    (breach,) = stream.breaches
    assert breach.cause == "e70"
    assert breach.event == QualityBreached(
        source="flights", partition=0,
        field="seats", rule="nulls", value=3 / 60, bound=0.04, rows=60, window_us=(TEN, TEN + HOUR), numbers=(0, 59),
        ranges=[(0, 59)], positions={"events.flights": {"0": 60}},
    )  # fmt: skip
    assert breach.event.quarantine_id == derived_id("quality", "flights", 0, TEN, "seats", "nulls")
    envelope = breach.envelope()
    assert (envelope.id, envelope.time_us, envelope.causation) == (
        str(breach.event.quarantine_id), TEN + HOUR, "e70",
    )  # fmt: skip


def test_a_share_at_its_bound_is_kept_and_few_rows_are_not_judged() -> None:
    loose = source("{judge_from: 5, fields: {seats: {max_nulls: 0.05}}}")
    assert Stream(loose).take(minutes(loose, 71, (3, 30, 59))).told == []
    few = source("{judge_from: 61, fields: {seats: {max_nulls: 0.05}}}")
    assert Stream(few).take(minutes(few, 72, range(60))).told == []


def test_ranges_values_and_rows() -> None:
    of = source(
        "{judge_from: 1, minimum_rows: 3, fields: {seats: {min: 10, max: 20, max_outside: 0.4},"
        " carrier: {values: [AA], max_others: 0.5}}}"
    )
    rows: list[dict[str, Any]] = [{"seats": 9, "carrier": "UA"}, {"seats": 21, "carrier": "UA"}, {"seats": 10}]
    records = [flight(of, n, TEN + n, **row) for n, row in enumerate(rows)]
    records += [flight(of, 3, TEN + HOUR), flight(of, 4, TEN + HOUR + 1, seats=20), timer(5, TEN + 2 * HOUR)]
    assert Stream(of).take(records).told == [
        ("carrier", "values", 1.0, (0, 2)), ("seats", "range", 2 / 3, (0, 2)), ("", "rows", 2.0, (3, 4)),
    ]  # fmt: skip


def test_hours_without_a_row_are_told_once() -> None:
    of = source("{minimum_rows: 1}")
    stream = Stream(of).take([flight(of, 0, TEN), timer(1, TEN + 5 * HOUR), flight(of, 2, TEN + 9 * HOUR)])
    assert stream.told == [("", "rows", 0.0, None), ("", "rows", 0.0, None)]
    assert [each.event.window_us for each in stream.breaches] == [
        (TEN + HOUR, TEN + 5 * HOUR), (TEN + 5 * HOUR, TEN + 8 * HOUR),
    ]  # fmt: skip
    assert all(not each.event.ranges for each in stream.breaches)


def test_a_silence_is_told_once_by_whatever_ends_it() -> None:
    of = source("{max_silence: 30m}")
    stream = Stream(of).take([flight(of, 0, TEN), timer(1, TEN + 30 * MINUTE)])
    assert stream.told == []
    stream.take([timer(2, TEN + 40 * MINUTE), timer(3, TEN + 50 * MINUTE), flight(of, 4, TEN + 60 * MINUTE)])
    assert stream.told == [("", "silence", 2400.0, None)]
    assert stream.breaches[0].event.window_us == (TEN, TEN + 40 * MINUTE)
    stream.take([flight(of, 5, TEN + 2 * HOUR)])
    assert stream.told[1:] == [("", "silence", 3600.0, None)]
    assert len({each.event.quarantine_id for each in stream.breaches}) == 2


def test_numbers_between_belong_to_the_neighbour() -> None:
    of = source("{judge_from: 1, fields: {seats: {max_nulls: 0.0}}}")
    times = [59, 60, 58, 61, 57]
    records = [flight(of, n, TEN + at * MINUTE, **({} if at < 60 else {"seats": 1})) for n, at in enumerate(times)]
    (breach,) = Stream(of).take([*records, timer(5, TEN + HOUR)]).breaches
    assert breach.event.numbers == (0, 4)
    assert breach.event.ranges == [(0, 0), (2, 2), (4, 4)]


def test_ranges_are_bounded() -> None:
    of = source("{judge_from: 1, fields: {seats: {max_nulls: 0.0}}}", lateness="2h")
    count = 2 * MOST_RANGES + 10
    records = [flight(of, n, TEN + (HOUR if n % 2 else 0)) for n in range(count)]
    first = Stream(of).take([*records, timer(count, TEN + HOUR)]).breaches[0].event
    assert len(first.ranges) == MOST_RANGES
    assert first.ranges[-1] == (2 * MOST_RANGES - 2, count - 2)


@pytest.mark.parametrize("seed", range(5))
def test_cuts_of_batches_do_not_matter(seed: int) -> None:
    draw = Random(seed)
    of = source(
        "{window: 20m, judge_from: 2, minimum_rows: 3, max_silence: 15m, fields: {seats: {max_nulls: 0.3, max: 50}}}"
    )
    records, now = list[Rec](), TEN
    for n in range(300):
        now += draw.choice([1, MINUTE, 5 * MINUTE, 50 * MINUTE])
        seats = {} if draw.random() < 0.3 else {"seats": draw.randrange(60)}
        is_timer = draw.random() < 0.05
        records.append(timer(n, now) if is_timer else flight(of, n, now - draw.randrange(12) * MINUTE, **seats))
    whole, cut = Stream(of).take(records), Stream(of)
    while records:
        size = draw.randrange(1, 9)
        cut.take(records[:size])
        records = records[size:]
    assert whole.breaches
    assert cut.breaches == whole.breaches
    assert cut.until[-1:] == whole.until
    assert cut.state == whole.state


def test_it_is_told_how_far_all_is_judged() -> None:
    """From the first event on, behind what that batch has told: no later breach ends by then."""
    of = source("{window: 20m, judge_from: 1, fields: {seats: {max_nulls: 0.0}}}")
    stream = Stream(of).take([flight(of, 0, TEN + 5 * MINUTE)])
    assert stream.until == [TEN - 20 * MINUTE]  # up to ten minutes late
    stream.take([flight(of, 1, TEN + 29 * MINUTE)])
    assert (stream.until[1:], stream.told) == ([TEN], [])
    stream.take([flight(of, 2, TEN + 30 * MINUTE)])
    assert (stream.until[2:], len(stream.told)) == ([TEN + 20 * MINUTE], 1)
    stream.take([timer(3, TEN + 2 * HOUR)])
    assert stream.until[3:] == [TEN + 2 * HOUR]
    assert stream.take([timer(4, TEN + 2 * HOUR + 1)]).until[4:] == []


def test_other_rules_count_anew() -> None:
    stream = Stream(NULLS).take(minutes(NULLS, 30, range(30)))
    stream.source = source("{judge_from: 5, fields: {seats: {max_nulls: 0.5}}}")
    stream.take(minutes(stream.source, 50, (), start=TEN + 30 * MINUTE, offset=30))
    assert stream.told == []
    assert json.loads(stream.state)["rules"] != State().rules


@pytest.mark.parametrize(
    ("quality", "problem"),
    [
        ("{fields: {nothing: {max_nulls: 0.1}}}", "nothing is not a field of this source"),
        ("{fields: {delay: {max_nulls: 0.1}}}", "delay is required, so a null is a dead letter already"),
        ("{fields: {carrier: {min: 1}}}", "a range needs a number, carrier is category"),
        ("{fields: {seats: {values: [a]}}}", "values need text, seats is integer"),
        ("{fields: {seats: {}}}", "set max_nulls, min, max or values"),
        ("{fields: {seats: {min: 2, max: 1}}}", "min must not be above max"),
        ("{window: 1h}", "declare fields, minimum_rows or max_silence"),
    ],
)
def test_rules_that_cannot_hold_are_refused(quality: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        source(quality)


def test_a_source_without_rules_is_named_as_before() -> None:
    spec = parse_pipeline(PIPELINE.encode())
    assert "quality" not in spec.model_dump(mode="json")["sources"]["flights"]
    assert isinstance(NULLS.spec.quality, QualitySpec)
    assert NULLS.spec.model_dump(mode="json")["quality"]["window"] == "1h"
