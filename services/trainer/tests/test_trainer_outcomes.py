"""The cache of outcomes: what was written down is what is read back, and only where it was asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tidemill_trainer import outcomes
from tidemill_trainer.outcomes import Columns, Wanted

SCHEMA = "a" * 64


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four outcomes."""
    monkeypatch.setattr(outcomes, "CHUNK", 4)


def an_outcome(seq: int, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any JSON value
    """An outcome as it is on the topic."""
    return {
        "seq": seq, "labelled_us": 10 * seq, "vector": [seq, None], "label": seq % 2, "features": SCHEMA,
        "segments": {"city": f"c{seq}"}, "prediction_id": f"p{seq}", "label_position": [seq % 2, seq], **changes,
    }  # fmt: skip


def wanted(until: int, *segments: str) -> Wanted:
    """The outcomes below a number."""
    return Wanted("demo", until, SCHEMA, 2, segments)


def write(cache: Path, first: int, *segments: str) -> None:
    """Put one chunk into the cache, as if its records stood at twice their numbers."""
    columns = Columns(first, 2 * first)
    for seq in range(first, first + 4):
        columns.add(an_outcome(seq), 2 * seq)
    outcomes._write_chunk(cache, wanted(100, *segments), columns, columns.rows(SCHEMA, 2, segments))


def test_a_repeat_is_taken_once_and_a_quarantined_outcome_not_at_all() -> None:
    """Numbers are dense: what is not the next one was here before."""
    columns = Columns(0, 0)
    for seq, offset in ((0, 5), (0, 6), (1, 7), (2, 8), (1, 9)):
        columns.add(an_outcome(seq, quarantined=seq == 1), offset)
    assert (columns.following, columns.offset) == (3, 9)
    assert columns.rows(SCHEMA, 2, ()).labelled_us.tolist() == [0, 20]
    assert len(columns.rows("b" * 64, 2, ())) == 0


def test_chunks_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    """As many as are wanted whole, and the offset to go on from."""
    cache = tmp_path / "demo"
    assert outcomes._cached(cache, wanted(100, "city")) == ([], 0)
    write(cache, 0, "city")
    write(cache, 4, "city")
    parts, offset = outcomes._cached(cache, wanted(100, "city"))
    assert [part.labelled_us.tolist() for part in parts] == [[0, 10, 20, 30], [40, 50, 60, 70]]
    assert parts[1].segments["city"].tolist() == ["c4", "c5", "c6", "c7"]
    assert np.array_equal(parts[0].features, np.array([[i, np.nan] for i in range(4)], np.float32), equal_nan=True)
    origins = parts[1].origins
    assert origins is not None
    assert origins.predictions.tolist() == ["p4", "p5", "p6", "p7"]
    assert (origins.partitions.tolist(), origins.seqs.tolist()) == ([0, 1, 0, 1], [4, 5, 6, 7])
    assert offset == 15
    parts, offset = outcomes._cached(cache, wanted(7, "city"))
    assert (len(parts), offset) == (1, 7)


def test_other_segments_are_read_from_the_topic_again(tmp_path: Path) -> None:
    """A chunk holds the segments of its day; a pipeline that watches others cannot use it."""
    write(tmp_path, 0, "city")
    assert outcomes._cached(tmp_path, wanted(100, "city", "day")) == ([], 0)
    assert len(outcomes._cached(tmp_path, wanted(100, "city"))[0]) == 1
