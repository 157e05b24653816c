"""What becomes of a record: every rule of the operator, and that a crash cannot change an answer."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ingestion_cases import FLIGHTS, HOUR, MINUTE, NOON, Rec, envelope, event, garbage, record, timer

from tidemill_contracts import format_time
from tidemill_ingestion.domain.decide import Batch, Emit, Known, Position, decide, repeat
from tidemill_ingestion.domain.readings import Progress, Refusal, read


def run(records: list[Rec], known: dict[str, Known] | None = None, position: Position = Position()) -> Batch:  # noqa: B008
    return decide(FLIGHTS, [(r, read(FLIGHTS, r)) for r in records], known or {}, position)


def stored(batch: Batch, partition: int = 0) -> dict[str, Known]:
    return {c.id: Known(c.digest, c.outcome, partition, c.offset, c.seq) for c in batch.claims.values()}


def what(emit: Emit) -> tuple[str, int, int | None]:
    return emit.family, emit.record.offset, emit.envelope.seq if emit.envelope else None


def test_events_are_numbered_densely_whatever_lies_between() -> None:
    batch = run([record(5, event("a")), garbage(7), record(9, event("b")), timer(10, NOON), record(12, event("a"))])
    written = [("events", 5, 0), ("dlq", 7, None), ("events", 9, 1), ("events", 10, None)]
    assert [what(e) for e in batch.emits] == written
    assert [e.envelope.origin for e in batch.emits if e.envelope] == [(0, 5, 0), (0, 9, 0), (0, 10, 0)]
    assert (batch.position.next, batch.position.seq) == (13, 2)
    counts = batch.counts
    assert (counts.applied, counts.refused, counts.timers, counts.duplicates, counts.records) == (2, 1, 1, 1, 5)


def test_the_same_id_with_another_body_is_a_conflict_in_the_batch_and_later() -> None:
    first = run([record(0, event("a")), record(1, event("a", delay=2))])
    assert [what(e) for e in first.emits] == [("events", 0, 0), ("dlq", 1, None)]
    assert (first.counts.conflicts, first.conflicts) == (1, ["a"])
    second = run([record(2, event("a", delay=2)), record(3, event("a"))], stored(first), first.position)
    assert (second.counts.conflicts, second.counts.duplicates, second.claims) == (1, 1, {})


def test_an_event_below_the_watermark_is_late_and_one_at_it_is_not() -> None:
    at = [format_time(NOON), format_time(NOON - HOUR), format_time(NOON - HOUR - 1)]
    batch = run([record(n, event(f"e{n}", time=time)) for n, time in enumerate(at)])
    assert [what(e)[0] for e in batch.emits] == ["events", "events", "late"]
    assert (batch.position.watermark_us, batch.position.newest_us) == (NOON - HOUR, NOON)
    assert batch.emits[2].envelope is not None
    assert batch.emits[2].envelope.seq is None


def test_a_timer_raises_the_watermark_and_never_lowers_it() -> None:
    batch = run([timer(0, NOON), timer(1, NOON - HOUR), record(2, event(time=format_time(NOON - 1)))])
    assert batch.position.watermark_us == NOON
    assert [what(e)[0] for e in batch.emits] == ["events", "events", "late"]


def test_the_future_is_judged_by_the_recorded_time_and_moves_no_watermark() -> None:
    day = 24 * HOUR
    batch = run([
        record(0, event("a", time=format_time(NOON + day))), record(1, event("b", time=format_time(NOON + day + 1))),
    ])  # fmt: skip
    assert [what(e)[0] for e in batch.emits] == ["events", "future"]
    assert batch.position.newest_us == NOON + day


def test_a_duplicate_is_dropped_even_when_it_would_be_late_by_now() -> None:
    first = run([record(0, event("a")), timer(1, NOON)])
    second = run([record(2, event("a"))], stored(first), first.position)
    assert (second.emits, second.counts.duplicates, second.counts.late) == ([], 1, 0)


def test_a_refused_id_is_counted_once_and_may_still_become_an_event() -> None:
    good = event("a")
    bad = replace(record(0, good), value=b'{"tail": 1}')
    batch = run([bad, replace(bad, offset=1)])
    assert (batch.counts.refused, batch.counts.dead_lettered, set(batch.claims)) == (2, 1, {"a"})
    after = run([record(2, good)], stored(batch), batch.position)
    assert (after.counts.applied, after.counts.dead_lettered) == (1, -1)
    together = run([bad, record(1, good)])
    assert (together.counts.applied, together.counts.dead_lettered, together.counts.refused) == (1, 0, 1)
    assert together.claims["a"].outcome == "applied"


@pytest.mark.parametrize(
    ("rec", "reason"),
    [
        (garbage(0), "envelope"),
        (Rec(0, None), "envelope"),
        (Rec(0, b"{}", envelope(b"").headers()), "invalid"),
        (Rec(0, b"{", envelope(b"").headers()), "json"),
        (Rec(0, None, envelope(b"").headers()), "json"),
        (Rec(0, b'{"a":1,"a":1}', envelope(b"").headers()), "duplicate_key"),
        (Rec(0, b"{}", [(n, v) for n, v in envelope(b"").headers() if n != "ce_id"]), "envelope"),
        (Rec(0, b"{}", [*envelope(b"").headers(), ("ce_time", b"noon")]), "envelope"),
        (Rec(0, b"{}", [*envelope(b"").headers(), ("tm_seq", b"-1")]), "envelope"),
        (Rec(0, b"{}", envelope(b"", time_us=-(2**55)).headers()), "envelope"),
        (replace(record(0, event()), key=None), "key"),
        (replace(record(0, event()), key=b"other"), "key"),
        (replace(record(0, event(partition=1)), partition=0), "partition"),
        (timer(0, NOON + 25 * HOUR), "timer"),
        (replace(timer(0, NOON), value=b'{"source":"flights","time_us":%d}' % 2**61), "timer"),
        (timer(0, NOON, source="weather"), "timer"),
        (replace(timer(0, NOON), value=b"[]"), "timer"),
    ],
)
def test_a_record_that_can_never_be_an_event_says_why(rec: Rec, reason: str) -> None:
    found = read(FLIGHTS, rec)
    assert isinstance(found, Refusal)
    assert found.reason == reason
    assert [(e.family, e.reason) for e in run([rec]).emits] == [("dlq", reason)]


def test_headers_without_a_value_are_refused() -> None:
    found = read(FLIGHTS, Rec(0, b"{}", [("ce_id", None)]))  # type: ignore[list-item]  # Kafka allows it
    assert isinstance(found, Refusal)


def test_a_timer_of_the_source_is_progress() -> None:
    found = read(FLIGHTS, timer(0, NOON))
    assert isinstance(found, Progress)
    assert found.time_us == NOON


def test_what_was_decided_stays_when_the_source_is_declared_anew_before_the_output_is_written() -> None:
    rec = record(0, event("a", delay=400))
    batch = run([rec])
    narrow = FLIGHTS.spec.fields["delay"].model_copy(update={"max": 10.0})
    changed = type(FLIGHTS).compile(
        "flights", FLIGHTS.spec.model_copy(update={"fields": FLIGHTS.spec.fields | {"delay": narrow}}), 3
    )
    reading = read(changed, rec)
    assert isinstance(reading, Refusal)
    assert [what(e) for e in repeat([(rec, reading)], stored(batch))] == [("events", 0, 0)]


_steps = st.lists(
    st.tuples(
        st.sampled_from(["event", "bad", "timer", "garbage"]), st.integers(0, 5), st.integers(0, 300), st.booleans()
    ),
    max_size=30,
)


def _records(steps: list[tuple[str, int, int, bool]]) -> list[Rec]:
    records = []
    for offset, (kind, name, minutes, other) in enumerate(steps):
        about = event(f"e{name}", time=format_time(NOON + minutes * MINUTE), delay=2.0 if other else 1.0)
        good = record(offset, about)
        records.append({
            "event": good, "bad": replace(good, value=b"{}"), "garbage": garbage(offset),
            "timer": timer(offset, NOON + minutes * MINUTE),
        }[kind])  # fmt: skip
    return records


@given(_steps, st.integers(0, 30))
def test_where_batches_end_changes_nothing(steps: list[tuple[str, int, int, bool]], cut: int) -> None:
    records = _records(steps)
    whole = run(records)
    first = run(records[:cut])
    second = run(records[cut:], stored(first), first.position if records[:cut] else Position())
    assert [what(e) for e in whole.emits] == [what(e) for e in first.emits + second.emits]
    if records:
        assert (whole.position.seq, whole.position.watermark_us) == (
            second.position.seq, second.position.watermark_us,
        )  # fmt: skip


@given(_steps)
def test_a_repeat_after_a_crash_writes_the_same_bytes(steps: list[tuple[str, int, int, bool]]) -> None:
    records = _records(steps)
    pairs = [(r, read(FLIGHTS, r)) for r in records]
    batch = run(records)
    assert repeat(pairs, stored(batch)) == batch.emits


@given(_steps)
def test_every_record_is_counted_in_exactly_one_class(steps: list[tuple[str, int, int, bool]]) -> None:
    batch = run(_records(steps))
    c = batch.counts
    assert c.records == c.applied + c.late + c.future + c.duplicates + c.conflicts + c.refused + c.timers
    assert len(batch.claims) == c.applied + c.late + c.future + c.dead_lettered
