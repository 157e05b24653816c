import pytest
from aiokafka import ConsumerRecord

from tidemill_runtime.dlq import MAXIMUM_BYTES, DeadLetterLimiter, dead_letter
from tidemill_runtime.errors import Stalled


def a_record(headers: tuple[tuple[str, bytes], ...] = ()) -> ConsumerRecord:
    return ConsumerRecord("raw.x.v1", 3, 42, 1000, 0, b"\xffkey", b"\xfevalue", None, 4, 6, headers)


def test_a_dead_letter_keeps_the_bytes_and_says_what_happened() -> None:
    record = a_record((("ce_id", b"\xff"), ("other", b"1")))
    topic, key, value, headers = dead_letter(
        record, group="g", reason="schema", error="x" * 5000, attempts=3, schema_id="s", code_version="1"
    )
    assert (topic, key, value) == ("raw.x.v1.dlq", b"\xffkey", b"\xfevalue")
    assert headers[:2] == [("ce_id", b"\xff"), ("other", b"1")]
    assert dict(headers)["tm_dlq_error"] == b"x" * 1000
    assert {name: text for name, text in headers if name.startswith("tm_dlq_") and name != "tm_dlq_error"} == {
        "tm_dlq_id": b"raw.x.v1/3/42", "tm_dlq_topic": b"raw.x.v1", "tm_dlq_partition": b"3", "tm_dlq_offset": b"42",
        "tm_dlq_timestamp_ms": b"1000", "tm_dlq_group": b"g", "tm_dlq_reason": b"schema", "tm_dlq_attempts": b"3",
        "tm_dlq_schema_id": b"s", "tm_dlq_code_version": b"1",
    }  # fmt: skip


def test_a_record_that_was_replayed_is_buried_with_new_facts_only() -> None:
    _, _, _, first = dead_letter(a_record(), group="g", reason="a", error="e")
    _, _, _, second = dead_letter(a_record(tuple(first)), group="g", reason="b", error="e")
    assert [text for name, text in second if name == "tm_dlq_reason"] == [b"b"]
    assert len(first) == len(second)


def test_a_letter_that_no_broker_would_take_loses_its_bytes_but_not_its_address() -> None:
    much = b"x" * MAXIMUM_BYTES
    fields = [(b"k", much, ()), (b"k", b"", (("h", much),)), (much, b"", ()), (None, None, ())]
    for key, value, own in fields:
        record = ConsumerRecord("raw.x.v1", 3, 42, 1000, 0, key, value, None, 4, 6, own)
        _, key_kept, value_kept, headers = dead_letter(record, group="g", reason="r", error="e" * 5000)
        assert (key_kept, value_kept) == (None, b"")
        assert sum(len(name) + len(text) for name, text in headers) < 5000
        assert dict(headers)["tm_dlq_offset"] == b"42"


def test_a_run_of_dead_letters_stalls() -> None:
    limiter = DeadLetterLimiter(share=1.0, run_length=3)
    for _ in range(3):
        limiter.dead()
    limiter.good()
    for _ in range(3):
        limiter.dead()
    with pytest.raises(Stalled, match="more than 3 records in a row"):
        limiter.dead()


def test_a_share_of_dead_letters_stalls_once_enough_were_seen() -> None:
    limiter = DeadLetterLimiter(share=0.5, run_length=10, window=20, minimum=10)
    for _ in range(4):
        limiter.dead()
        limiter.good()
    limiter.dead()
    with pytest.raises(Stalled, match="6 of the last 10 records"):
        limiter.dead()


def test_old_dead_letters_leave_the_window() -> None:
    limiter = DeadLetterLimiter(share=0.5, run_length=100, window=10, minimum=10)
    for _ in range(9):
        limiter.dead()
    for _ in range(10):
        limiter.good()
    for _ in range(5):
        limiter.dead()
    with pytest.raises(Stalled):
        limiter.dead()
