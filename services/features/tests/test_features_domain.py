"""The domain: each batch twice is once, any order is one order, and online is the backfill, bit for bit."""

import pytest
from features_cases import (
    END_US,
    PARTITIONS,
    START_US,
    Departure,
    Stream,
    departures,
    fresh,
    pipeline,
    source_record,
    views,
)
from features_play import (
    Readers,
    body,
    by_sum,
    check_against_backfill,
    direct,
    play,
    routed,
    rows_of,
    section_of,
)

from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.marks import Marks
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.domain.views import compile_program


@pytest.mark.parametrize("name", ["by-flight", "by-carrier", "by-route"])
def test_online_is_the_backfill_bit_for_bit_whatever_batches_and_repeats(name: str) -> None:
    view, stream = views()[name], departures(3000)
    inputs = routed(view, stream) if view.repartitioned else direct(view, stream)
    plain = play(view, inputs, size=4000)
    assert check_against_backfill(view, stream, plain) > 2
    shuffled = routed(view, stream, repeat=True, seed=7) if view.repartitioned else inputs
    for variant in (play(view, inputs, size=37, repeat=True), play(view, shuffled, size=211)):
        assert [known.vectors for known in variant] == [known.vectors for known in plain]
        assert [known.watermark for known in variant] == [known.watermark for known in plain]


def test_positions_name_the_newest_event_of_every_source_partition() -> None:
    view, stream = views()["by-carrier"], departures(500)
    for known in play(view, routed(view, stream), size=50):
        for vector in known.vectors.values():
            for partition, seq in vector.positions.items():
                mine = [e.seq for e in stream.by_partition[int(partition)] if e.body["carrier"] == vector.entity]
                assert seq == max(mine)
        assert known.watermark is not None
        assert known.watermark.watermark_us == END_US
        assert known.watermark.positions == {str(p): len(e) - 1 for p, e in stream.by_partition.items()}


def test_a_restored_partition_goes_on_as_if_nothing_had_happened() -> None:
    view, stream = views()["by-carrier"], departures(2000)
    records = routed(view, stream, size=4)[by_sum(b"AA", PARTITIONS)]
    part, undisturbed = fresh(view, by_sum(b"AA", PARTITIONS)), Readers()
    for at in range(0, len(records), 100):
        part.take({view.input_topic: records[at : at + 100]})
        undisturbed.read(part)

    part, known = fresh(view, part.views[0].partition), Readers()
    stored: dict[bytes, bytes | None] = {}
    marks = Marks()
    for at in range(0, len(records), 90):
        part.take({view.input_topic: records[at : at + 90]})
        known.read(part)
        if at % 270 == 0:
            for _, capture in part.capture():
                stored.update(capture.entries)
                marks = capture.marks
        if at % 450 == 0:  # it dies after it has told more than it had stored
            number, entries = part.views[0].partition, list(stored.items())
            part = AggregatePartition([ViewPartition.restored(view, number, marks, entries)])
            part.take({view.input_topic: records[marks.next_offset : at + 90]})
            part.drain()
    assert known.vectors == undisturbed.vectors
    assert part.views[0].marks(len(records)) == Marks(
        len(records), part.views[0].seqs, part.views[0].watermarks, END_US, view.input_topic
    )


def test_nothing_new_needs_no_checkpoint() -> None:
    view, stream = views()["by-flight"], departures(50)
    part = fresh(view, 0)
    part.take({view.input_topic: direct(view, stream)[0]})
    part.drain()
    assert len(part.capture()) == 1
    assert part.capture() == []


def test_a_key_that_dies_is_deleted_everywhere() -> None:
    view = views(pipeline(ttl="24h"))["by-carrier"]
    stream = Stream({0: [Departure("e", START_US, body("AA"), 0, 0)], 1: [], 2: []})
    inputs = routed(view, stream, size=1)
    p = by_sum(b"AA", PARTITIONS)
    part, known = fresh(view, p), Readers()
    part.take({view.input_topic: [record for record in inputs[p] if rows_of(section_of(record.value or b"", view)[1])]})
    known.read(part)
    assert set(known.vectors) == {b"AA"}
    assert part.capture()[0][1].entries[0][0] == b"AA"
    part.take({view.input_topic: inputs[p]})
    known.read(part)
    assert known.vectors == {}
    assert part.capture()[0][1].entries == [(b"AA", None)]


def test_an_event_that_no_accumulator_can_hold_is_rejected_and_its_neighbours_count() -> None:
    view = views()["by-flight"]
    events = [Departure(f"e{n}", START_US + n, body("AA", delay), 0, n) for n, delay in enumerate([1.0, 1e300, 2.0])]
    part, known = fresh(view, 0), Readers()
    (rejected,) = part.take({view.input_topic: [source_record(event, n) for n, event in enumerate(events)]})
    known.read(part)
    assert "too large" in rejected.reason
    assert rejected.record.offset == 1
    assert known.vectors[b"F1"].values[0] == 2.0


def test_the_same_view_in_two_pipelines_runs_once_and_a_different_one_is_refused() -> None:
    program = compile_program([pipeline("b"), pipeline("a"), pipeline("c", ttl="30d")], "tm")
    assert [(view.name, view.pipeline) for view in program.views] == [
        ("by-carrier", "a"), ("by-flight", "a"), ("by-route", "a"),
    ]  # fmt: skip
    assert set(program.refused) == {"c/by-carrier"}
    assert program.router_topics == ("tm.events.departures.v1",)
    assert program.input_topics == ("tm.events.departures.v1", "tm.repartition.departures.v1")


def test_another_number_of_partitions_of_one_source_is_refused() -> None:
    program = compile_program([pipeline("a"), pipeline("b", partitions=6)], "tm")
    assert {name: "partitions" in reason for name, reason in program.refused.items()} == {
        "b/by-carrier": True, "b/by-flight": True, "b/by-route": True,
    }  # fmt: skip


def test_a_view_that_the_engine_cannot_run_is_refused_and_the_others_run() -> None:
    program = compile_program([pipeline("a", where="delay +")], "tm")
    assert set(program.refused) == {"a/by-carrier"}
    assert len(program.views) == 2
    assert set(compile_program([pipeline("a", where="delay")], "tm").refused) == {"a/by-carrier"}
