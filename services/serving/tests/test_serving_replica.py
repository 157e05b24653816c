"""The replica: the newest vector of every entity, watermarks, and its snapshot on disk."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_cases import T0_US, pipeline, released

from tidemill_contracts.events import FeatureVector, ViewRevision, Watermark
from tidemill_serving.domain.releases import Kept, KeptRelease, Swap
from tidemill_serving.domain.replica import WATERMARK_KEY, BadRecordError, Replica
from tidemill_serving.store import Store

Values = tuple[float | None, ...]
PLACE = VIEW, VERSION = "by-carrier", "0123456789abcdef"


def made(partitions: int = 2) -> Replica:
    replica = Replica()
    assert replica.want(PLACE, width=2, partitions=partitions)
    return replica


def vector(revision: int, *, entity: str = "AA", version: str = VERSION, values: Values = (1.0, None)) -> bytes:
    event = FeatureVector(
        view=VIEW, version=version, entity=entity, at_us=T0_US + revision, revision=revision, values=list(values),
        positions={"0": revision, "1": 4},
    )  # fmt: skip
    return event.model_dump_json().encode()


def mark(replica: Replica, partition: int, time_us: int) -> None:
    event = Watermark(view=VIEW, partition=partition, watermark_us=time_us, positions={"0": 1})
    replica.apply(PLACE, partition, WATERMARK_KEY, event.model_dump_json().encode())


def revision_of(replica: Replica, entity: str = "AA") -> int | None:
    row = replica.tables[PLACE].rows.get(entity)
    return None if row is None else row.revision


@given(st.lists(st.integers(1, 9), min_size=1))
def test_a_lower_revision_never_replaces_a_higher_one(revisions: list[int]) -> None:
    replica = made()
    for revision in revisions:
        replica.apply(PLACE, 0, b"AA", vector(revision))
        replica.apply(PLACE, 0, b"AA", vector(revision))
    assert revision_of(replica) == max(revisions)


def test_a_row_holds_nulls_as_nan_and_its_revision_as_the_contract_has_it() -> None:
    replica = made()
    replica.apply(PLACE, 0, b"AA", vector(3))
    row = replica.tables[PLACE].rows["AA"]
    assert row.values[0] == 1.0
    assert np.isnan(row.values[1])
    read = ViewRevision.model_validate_json(row.revision_json)
    assert read == ViewRevision(entity="AA", revision=3, at_us=T0_US + 3, positions={"0": 3, "1": 4})


def test_an_entity_that_was_forgotten_is_unknown() -> None:
    replica = made()
    replica.apply(PLACE, 0, b"AA", vector(3))
    replica.apply(PLACE, 0, b"AA", None)
    assert revision_of(replica) is None
    replica.apply(PLACE, 0, b"AA", vector(1))
    assert revision_of(replica) == 1


def test_only_versions_that_are_wanted_are_kept() -> None:
    replica = made()
    replica.apply(PLACE, 0, b"AA", vector(3, version="f" * 16))
    assert revision_of(replica) is None
    assert replica.want((VIEW, "f" * 16), width=2, partitions=2)
    assert not replica.want(PLACE, width=2, partitions=2)


def test_a_views_watermark_is_the_lowest_of_all_its_partitions() -> None:
    replica = made()
    assert replica.watermark_us([PLACE]) is None
    mark(replica, 0, 100)
    assert replica.watermark_us([PLACE]) is None
    mark(replica, 1, 50)
    assert replica.watermark_us([PLACE]) == 50
    mark(replica, 1, 20)  # a repeat after a crash of the writer
    assert replica.watermark_us([PLACE]) == 50
    assert replica.watermark_us([PLACE, ("another", VERSION)]) is None
    assert replica.watermark_us([]) is None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"AA", b"garbage"),
        (b"AA", b"{}"),
        (b"AA", vector(9).replace(b'"revision":9', b'"revision":"9"')),
        (b"AA", vector(9, values=(1.0, 2.0, 3.0))),
        (b"AA", vector(9).replace(b"[1.0,null]", b"[NaN,1]")),
        (b"AA", b"\xff\xfe"),
        (WATERMARK_KEY, b"{}"),
        (b"\xff", None),
    ],
)
def test_garbage_is_refused_and_leaves_everything_as_it_was(key: bytes, value: bytes | None) -> None:
    replica = made(1)
    replica.apply(PLACE, 0, b"AA", vector(3))
    mark(replica, 0, 7)
    with pytest.raises(BadRecordError):
        replica.apply(PLACE, 0, key, value)
    assert (revision_of(replica), replica.watermark_us([PLACE])) == (3, 7)


def test_a_snapshot_gives_the_same_replica(tmp_path: Path) -> None:
    store, replica = Store(tmp_path), made()
    assert store.load_snapshot() is None
    for number in range(50):
        replica.apply(PLACE, 0, b"x", vector(number + 1, entity=f"E{number}", values=(number / 3, None)))
    mark(replica, 0, 9)
    mark(replica, 1, 8)
    store.save_snapshot(replica.copy())
    again = store.load_snapshot()
    assert again is not None
    assert again.watermark_us([PLACE]) == 8
    rows, before = again.tables[PLACE].rows, replica.tables[PLACE].rows
    assert rows.keys() == before.keys()
    for entity, row in rows.items():
        assert row.values.tobytes() == before[entity].values.tobytes()
        known = before[entity]
        assert (row.revision, row.at_us, row.revision_json) == (known.revision, known.at_us, known.revision_json)


def test_a_damaged_snapshot_is_none(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.save_snapshot(made().copy())
    file = tmp_path / "replica.snapshot"
    file.write_bytes(file.read_bytes()[:-1])
    assert store.load_snapshot() is None


def test_releases_are_kept_with_the_files_they_were_planned_under(tmp_path: Path) -> None:
    store, spec = Store(tmp_path), pipeline()
    releases = [KeptRelease(released(spec, epoch, "a" * 64), spec) for epoch in (2, 1)]
    kept = Kept(spec, releases, [Swap(1, None), Swap(2, 5)])
    store.save_releases(kept)
    assert store.load_releases() == [kept]
    (tmp_path / "releases" / "other.json").write_bytes(b"{")
    assert store.load_releases() == [kept]
    store.forget_releases(spec.name)
    assert store.load_releases() == []


def test_the_trace_of_the_last_event_stays_while_only_time_moves_a_vector() -> None:
    replica = made()
    seen = []
    for revision, trace in ((1, None), (2, "a"), (3, None), (4, "b")):
        replica.apply(PLACE, 0, b"AA", vector(revision), trace=trace)
        seen.append(replica.tables[PLACE].rows["AA"].trace)
    assert seen == [None, "a", "a", "b"]
