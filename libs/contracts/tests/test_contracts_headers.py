"""Headers that were packed are the ones that went in, and lie there as Kafka's own writers put them."""

from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from tidemill_contracts.envelope import Headers
from tidemill_contracts.headers import packed_header, packed_headers, unpacked_headers, varint

NAMES = st.text(st.characters(codec="utf-8"), max_size=80)
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=5000)), max_size=63)


@given(HEADERS)
def test_what_was_packed_comes_out(headers: Headers) -> None:
    assert unpacked_headers(packed_headers(headers)) == headers


@given(st.lists(st.tuples(NAMES, st.binary(max_size=200)), max_size=8))
def test_the_bytes_are_those_of_another_writer(headers: Headers) -> None:
    """A record of aiokafka ends with its headers."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1_000_000)
    builder.append(0, 0, b"key", b"value", headers)
    raw = bytes(builder.build())
    assert raw.endswith(b"value" + packed_headers(headers))
    assert list(next(DefaultRecordBatch(raw)).headers) == headers


def test_lengths_of_every_size() -> None:
    assert varint(0) == b"\x00"
    assert varint(63) == b"\x7e"
    assert varint(64) == b"\x80\x01"
    assert varint(5000) == b"\x90\x4e"
    assert packed_header("abc", b"de") == b"\x06abc\x04de"
