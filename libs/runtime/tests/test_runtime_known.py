"""Texts that come again are known by their bytes but for a gap, and so are heads, with any trace context."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tidemill_runtime.compiled import compiled
from tidemill_runtime.http.wire_compiled import BODY, COLUMNS, END, HEAD, OTHER, _recognise
from tidemill_runtime.http.wire_compiled import TRACE as CONTEXT_AT
from tidemill_runtime.known import BASIS, PRIME, Bytes, Known, Table, find


@compiled
def _hash(raw: Bytes) -> Any:  # noqa: ANN401 - unsigned
    mark = BASIS
    for byte in raw:
        mark = (mark ^ np.uint64(byte)) * PRIME
    return mark


@compiled
def _look(table: Table, raw: Bytes, text: Bytes, part: tuple[int, int, int, int]) -> tuple[int, int]:
    number, value = find(table, _hash(text), raw, part)
    return number, value


@given(st.lists(st.binary(max_size=12), max_size=40), st.binary(max_size=5), st.integers(0, 12))
def test_texts_are_known_but_for_their_gap(texts: list[bytes], gap: bytes, at: int) -> None:
    known, numbers = Known[bytes](), dict[bytes, int]()
    for text in texts:
        assert known.learn(text, len(text), text)
        numbers.setdefault(text, len(numbers))
    assert known.found == list(numbers)
    for text in [*texts, b"another one that is none"]:
        place = min(at, len(text))
        raw = b"<" + text[:place] + gap + text[place:] + b">"
        part = 1, 1 + place, 1 + place + len(gap), len(raw) - 1
        found = _look(known.table, np.frombuffer(raw, np.uint8), np.frombuffer(text, np.uint8), part)
        assert found == ((numbers[text], len(text)) if text in numbers else (-1, 0))


def test_what_is_known_is_bounded_and_forgotten_as_a_whole() -> None:
    known = Known[int]()
    for number in range(10_000):
        known.learn(b"text %d" % number, 0, number)
    assert len(known.found) <= 1 << 12
    last = b"text 9999"
    found, _ = _look(known.table, *(np.frombuffer(last, np.uint8),) * 2, (0, len(last), len(last), len(last)))
    assert known.found[found] == 9999
    assert not known.learn(b"x" * (2 << 20), 0, 0)


TRACES = [f"00-{'a' * 32}-{'b' * 16}-01", f"00-{'0' * 32}-{'b' * 16}-01", f"00-{'A' * 32}-{'b' * 16}-01", "00-1"]


@given(st.sampled_from(["", *TRACES]), st.booleans(), st.integers(0, 3), st.binary(max_size=3))
def test_a_head_is_recognised_with_any_trace(trace: str, is_last: bool, size: int, more: bytes) -> None:
    known, head = Known[str](), b"POST /x HTTP/1.1\r\nhost: y\r\ncontent-length: 2"
    known.learn(head, 2, "taken")
    line = b"\r\ntraceparent: " + trace.encode() if trace else b""
    full = head + line if is_last else head.replace(b"\r\nhost", line + b"\r\nhost")
    raw = np.frombuffer(b"garbage" + full + b"\r\n\r\n" + b"z" * size + more, np.uint8)
    row = np.array([0, 7, len(raw), OTHER, -1, 7], np.int64)
    assert len(row) == COLUMNS
    _recognise(known.table, raw, row)
    is_known = size + len(more) == 2 and trace in {"", TRACES[0]}
    assert (row[HEAD] == 0) == is_known
    if is_known:
        assert bytes(raw[row[BODY] : row[END]]) == b"z" * size + more
        at = int(row[CONTEXT_AT])
        assert (bytes(raw[at : at + 55]).decode() if at >= 0 else "") == trace
