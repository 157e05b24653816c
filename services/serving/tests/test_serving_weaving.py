"""What is woven for a whole batch is, byte for byte, what one by one is written."""

import json
from typing import NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_edge import NAMES, Edge

from tidemill_contracts.envelope import read_envelope
from tidemill_contracts.events import Inference
from tidemill_contracts.headers import packed_headers
from tidemill_serving.domain import tensors
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Loaded
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.frames import apart, framed
from tidemill_serving.domain.tensors import RowsQuery, answer_rows, matrix_rows
from tidemill_serving.domain.weaving import OWN, SHARED, SIZE, TRACE, Pieces, opening, pattern

IDS = st.uuids().map(str)
TRACES = st.binary(min_size=24, max_size=24).map(lambda raw: f"00-{raw[:16].hex()}-{raw[16:].hex()}-01")
NAME = st.none() | st.text(max_size=90)
SCORE = st.floats(0, 1) | st.just(float("nan"))


class Piece(NamedTuple):
    """A record to be: what a pattern takes of it."""

    identity: bytes
    trace: bytes
    body: bytes
    partition: int
    at_us: int


RECORDS = st.builds(
    Piece, st.binary(max_size=20) | st.integers(0, 300).map(bytes), TRACES.map(str.encode),
    st.integers(0, 70_000).map(bytes) | st.binary(max_size=300),
    st.sampled_from((0, 5, 127, 128, 255, 256, 65_535, 65_536, 2**31 - 1)), st.integers(-(2**63), 2**63 - 1),
)  # fmt: skip


@given(st.lists(RECORDS, min_size=1, max_size=8), st.booleans())
def test_frames_are_those_of_single_records(records: list[Piece], has_key: bool) -> None:
    shared = [opening("inference", "größe", "t"), b"<", b">", b"\x04\x02a", b"\x02b"]
    ids = [one.identity for one in records]
    pieces = Pieces(shared, [ids, [one.trace for one in records], [one.body for one in records]])
    value = pattern((SHARED, 1), (OWN, 2), (SHARED, 2), (TRACE, 1))
    head = pattern((SHARED, 3), (SIZE, 0), (OWN, 0), (SHARED, 4), (SIZE, 1), (OWN, 1))
    numbers = np.array([(one.partition, one.at_us) for one in records], np.int64)
    expected = [
        Entry(
            "inference", "größe", "t", one.partition, one.identity if has_key else None,
            b"<%b>%b" % (one.body, one.trace[3:35]),
            packed_headers([("a", one.identity), ("b", one.trace)]), one.at_us,
        )
        for one in records
    ]  # fmt: skip
    assert pieces.frames(value, head, numbers, 0 if has_key else -1) == framed(expected)
    assert pieces.texts(value) == [one.value for one in expected]


class Request(NamedTuple):
    """Rows, what they score, and how they are asked for."""

    scores: list[float]
    identity: str
    trace: str
    id: str | None
    is_readable: bool


REQUESTS = st.builds(Request, st.lists(SCORE, min_size=1, max_size=9), IDS, TRACES, NAME, st.just(True))


class _Said:
    """A model that answers what it is told to."""

    def __init__(self, scores: list[float]) -> None:
        self._scores = np.array(scores)

    def scores(
        self, rows: np.ndarray[tuple[int, int], np.dtype[np.float32]]
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        assert len(rows) == len(self._scores)
        return self._scores


def desk_of(scores: list[float]) -> tuple[Desk, Loaded]:
    edge = Edge()
    edge.release()
    (desk,) = edge.house.desks.values()
    active = desk.champion.active
    assert active is not None
    active.members[:] = [member._replace(model=_Said(scores)) for member in active.members]
    return desk, active


@given(st.lists(REQUESTS, min_size=1, max_size=6), st.sampled_from((1, 3, 1000)))
def test_answers_and_records_say_what_was_asked_and_scored(asked: list[Request], most: int) -> None:
    desk, active = desk_of([score for one in asked for score in one.scores])
    width, now_us, made = len(NAMES), 1_700_000_000_000_000, np.random.default_rng(len(asked))
    queries = [
        RowsQuery(matrix_rows(made.normal(size=(len(one.scores), width)), one.id), one.identity, one.trace)
        for one in asked
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensors, "VALUES_PER_RECORD", most * width)
        drafts = answer_rows(desk, queries, now_us=now_us, degraded=True)
    entries, place = apart(drafts.entries), 0
    for one, query, result in zip(asked, queries, drafts.results, strict=True):
        if any(score != score for score in one.scores):  # noqa: PLR0124 - NaN
            assert isinstance(result, RefusedError)
            assert result.status == 503
            continue
        version = str(active.leader.version)
        assert result == msgspec.json.encode({
            "model_name": desk.name, "model_version": version, "id": one.identity if one.id is None else one.id,
            "parameters": {"inference_id": one.identity}, "outputs": [
                {"name": "probability", "datatype": "FP32", "shape": [len(one.scores)], "data": one.scores},
            ],
        })  # fmt: skip
        rows, parts = json.loads(b"[" + query.rows.text.text + b"]"), -(-len(one.scores) // most)  # type: ignore[union-attr]
        for part, entry in enumerate(entries[place : place + parts]):
            cut = slice(part * most, (part + 1) * most)
            assert entry.value == msgspec.json.encode({
                "inference_id": one.identity, "request_id": one.id, "pipeline": desk.name, "at_us": now_us,
                "epoch": active.released.epoch, "model": active.leader.digest, "version": active.leader.version,
                "features": active.plan.digest, "part": part, "parts": parts, "rows": rows[cut],
                "scores": one.scores[cut], "degraded": True, "trace_id": one.trace[3:35],
            })  # fmt: skip
            Inference.read(entry.value)
            envelope = read_envelope(entry.headers, entry.value)
            assert envelope.id == (f"{one.identity}.{part}" if part else one.identity)
            assert (envelope.type, envelope.time_us) == (Inference.TYPE, now_us)
            assert dict(entry.headers)["traceparent"].decode() == one.trace
            assert entry.partition == (now_us + place) % desk.spec.partitions
            assert (entry.kind, entry.pipeline, entry.topic, entry.key) == ("inference", desk.name, desk.topic, None)
        place += parts
    assert place == len(entries)
