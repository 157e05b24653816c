"""Records go from the spool's frames into Kafka's as they are, whatever is in them."""

import struct
import zlib
from pathlib import Path

import numpy as np
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st
from serving_spool import everything

from tidemill_contracts.headers import packed_headers
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.frames import crc32, framed
from tidemill_serving.spool import Spool, SpoolLimits, SpoolReader
from tidemill_serving.spool.parcels import batches, by_place
from tidemill_serving.spool.slabs import Slab, _frame, slab, warm_up

NUMBERS = st.integers(0, 2**40)
SOME = st.one_of(st.binary(max_size=40), st.integers(0, 70_000).map(bytes))
TEXTS = st.text(max_size=40)
HEADERS = st.lists(st.tuples(TEXTS, SOME), max_size=20)
ENTRIES = st.builds(
    Entry, st.sampled_from(("prediction", "inference", "timer", "letter")),
    st.sampled_from(("flights", "größe", "x" * 40)),
    st.sampled_from(("t", "predictions.v1")), st.sampled_from((0, 3, 127, 128, 300, 70_000)), st.none() | SOME, SOME,
    HEADERS | HEADERS.map(packed_headers), st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip


Sent = dict[tuple[str, int], list[tuple[bytes | None, bytes, list[tuple[str, bytes]]]]]


def sent(found: Slab) -> Sent:
    """What a consumer reads of each partition."""
    groups, _ = by_place(found)
    out: Sent = {}
    for place, rows in groups.items():
        got = out[place] = []
        for batch in batches(found, rows):
            batch._set_producer_state(1, 1, 1)
            read = list(MemoryRecords(batch._build()).next_batch() or ())
            assert len(read) == batch.record_count()
            got += [(one.key, one.value, list(one.headers)) for one in read]
    return out


@given(st.lists(ENTRIES, min_size=1, max_size=30), NUMBERS, NUMBERS)
def test_what_consumers_read_is_what_was_appended(entries: list[Entry], identity: int, first: int) -> None:
    found = slab(identity, first, framed(entries), most=1000, check=True)
    assert [one for _, _, one in found.entries()] == entries
    expected: dict[tuple[str, int], list[object]] = {}
    for number, one in enumerate(entries, first):
        origin = ("tm_origin", b"%d:%d:0" % (identity, number))
        expected.setdefault((one.topic, one.partition), []).append((one.key, one.value, [*one.headers, origin]))
    assert sent(found) == expected
    counts = {one.pipeline: 0 for one in entries if one.kind == "prediction"}
    for one in entries:
        counts[one.pipeline] = counts.get(one.pipeline, 0) + (one.kind == "prediction")
    assert by_place(found)[1] == {name: count for name, count in counts.items() if count}


@given(st.lists(ENTRIES, min_size=1, max_size=4), st.data())
def test_nothing_of_a_frame_that_is_torn_or_changed_is_read(entries: list[Entry], data: st.DataObject) -> None:
    raw = bytearray(framed(entries))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    found = slab(1, 0, bytes(raw), most=1000, check=True)
    whole = len(slab(1, 0, bytes(raw[:at]), most=1000, check=True))
    assert len(found) == whole
    assert [one for _, _, one in found.entries()] == entries[:whole]


@given(st.binary(min_size=1, max_size=60))
def test_bytes_that_are_no_record_are_not_read_as_one(raw: bytes) -> None:
    """Also where the checksum is right, as of a newer version: the first such frame ends what can be read."""
    found = slab(1, 0, struct.pack("<II", len(raw), 0) + raw, most=10, check=False)
    assert len(found) <= 1
    for one in found.table:
        assert all(0 <= place <= len(found.raw) for place in one[[0, 1, 5, 6, 7, 8]])


@given(st.binary(max_size=100), st.integers(0, 20))
def test_the_checksum_is_that_of_zlib(raw: bytes, start: int) -> None:
    start = min(start, len(raw))
    assert crc32(np.frombuffer(raw, np.uint8), start, len(raw)) == zlib.crc32(raw[start:])


def test_records_from_before_they_had_a_time_are_shipped_too() -> None:
    old = framed([Entry("timer", "flights", "t", 1, None, b"{}", [("ce_id", b"1")])])
    raw = b"\x97" + old[9:-1]  # seven fields: the last, a zero of one byte, was not there
    found = slab(1, 0, struct.pack("<II", len(raw), zlib.crc32(raw)) + raw, most=10, check=True)
    assert sent(found) == {("t", 1): [(None, b"{}", [("ce_id", b"1"), ("tm_origin", b"1:0:0")])]}


def test_what_is_in_memory_and_what_is_on_disk_are_read_as_one(tmp_path: Path) -> None:
    made = [Entry("inference", "flights", "t", n % 3, None, b"v%d" % n, [("ce_id", b"%d" % n)], n) for n in range(60)]
    spool = Spool(tmp_path, SpoolLimits(segment_bytes=500))
    spool.open()
    for first in range(0, 30, 3):
        spool.append(made[first : first + 3])
    spool.close()
    again = Spool(tmp_path, SpoolLimits(segment_bytes=500))
    again.open()
    for first in range(30, 60, 3):
        again.append(made[first : first + 3])
    for most in (1, 2, 4, 100):
        reader, got = SpoolReader(again, 0), list[Entry]()
        while (found := reader.slab(most)) is not None:
            assert len(found) <= most
            got += [one for _, _, one in found.entries()]
        assert got == made
    for start in (29, 31, 44, 59):
        assert [one for _, _, one in everything(SpoolReader(again, start))] == made[start:]
    again.close()


def test_what_is_made_ready_at_the_start_is_what_shipping_calls() -> None:
    warm_up()
    found = slab(1, 0, framed([Entry("timer", "flights", "t", 1, None, b"{}", [("ce_id", b"1")])]), most=10, check=True)
    assert [count for _, count in found.frame(np.arange(len(found)), 1 << 20)] == [1]
    assert len(_frame.signatures) == 1  # another would be compiled on the event loop, for half a second
