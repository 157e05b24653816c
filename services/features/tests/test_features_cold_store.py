"""Rows of cold keys: the tests' store and the real one answer alike, on a real Postgres."""

from pathlib import Path

import pytest
from features_cases import views
from features_fakes import FakeStore
from features_verdict import cold_entries

from tidemill_features import cold_rows
from tidemill_features.domain.cold import Chilled, Found, Row, Rows, Wanted
from tidemill_features.domain.marks import Capture, Marks
from tidemill_features.handlers.ports import Checkpoints
from tidemill_features.store import Store
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Fenced
from tidemill_runtime.postgres import Pool

pytestmark = pytest.mark.anyio
VIEW = views()["by-carrier"]
MARKS = Marks(7, {0: 3}, {0: 100}, 50)
ROWS = [Row(b"a", 300, b"A"), Row(b"b", 200, b"B"), Row(b"c\0", 200, b"C"), Row(b"\xff", 500, b"D" * 5000, 1000)]


@pytest.fixture(params=["fake", "postgres"])
def store(request: pytest.FixtureRequest, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    monkeypatch.setattr(cold_rows, "PAGE", 2)
    return FakeStore() if request.param == "fake" else Store(pool, Artifacts(tmp_path))


def capture(cold: Chilled, *forgotten: bytes) -> Capture:
    return Capture([(key, None) for key in forgotten], MARKS, cold)


async def test_rows_are_read_by_key_and_by_due_time_page_after_page(store: Checkpoints) -> None:
    owner = await store.own(0)
    assert await store.cold(owner, VIEW) == Rows()
    await store.save(owner, [(VIEW, capture(Chilled(put=ROWS)))])
    assert await store.cold(owner, VIEW) == Rows(4, 200)
    found = await store.fetch(VIEW, 0, Wanted([b"a", b"nobody", b"\xff"]))
    assert sorted(found.rows) == [(b"a", b"A"), (b"\xff", b"D" * 5000)]
    assert (found.page, found.next_due_us) == (None, None)
    first = await store.fetch(VIEW, 0, Wanted([b"a"], until_us=300))
    assert first == Found([(b"a", b"A"), (b"b", b"B"), (b"c\0", b"C")], (200, b"c\0\0"))
    assert await store.fetch(VIEW, 0, Wanted((), (200, b"c\0\0"), 300)) == Found([(b"a", b"A")], None, 500)
    assert await store.fetch(VIEW, 0, Wanted((), (301, b""), 499)) == Found([], None, 500)
    assert await store.fetch(VIEW, 0, Wanted((), (301, b""), 999)) == Found([(b"\xff", b"D" * 5000)], None, None)
    assert await store.fetch(VIEW, 0, Wanted((), (301, b""), 1000)) == Found([(b"\xff", None)], None, None)
    assert await store.fetch(VIEW, 0, Wanted([b"\xff"])) == Found([(b"\xff", b"D" * 5000)])


async def test_a_checkpoint_puts_moves_and_drops_rows_and_keys_leave_the_snapshot(store: Checkpoints) -> None:
    owner = await store.own(0)
    await store.save(owner, [(VIEW, Capture([(b"a", b"1"), (b"z", b"2")], MARKS))])
    await store.save(owner, [(VIEW, capture(Chilled(put=ROWS), b"a"))])
    assert await store.load(owner, VIEW) == (MARKS, [(b"z", b"2")])
    changes = Chilled(put=[Row(b"a", 900, b"AA")], moved=[(b"b", 800), (b"\xff", 700)], dropped=[b"c\0"])
    await store.save(owner, [(VIEW, capture(changes))])
    assert await store.cold(owner, VIEW) == Rows(3, 700)
    found = await store.fetch(VIEW, 0, Wanted([b"a", b"b", b"c\0"], until_us=750))
    assert sorted(found.rows) == [(b"a", b"AA"), (b"b", b"B"), (b"\xff", b"D" * 5000)]
    assert found.next_due_us == 800


async def test_an_owner_that_was_replaced_changes_no_row(store: Checkpoints) -> None:
    stale = await store.own(0)
    await store.save(stale, [(VIEW, capture(Chilled(put=ROWS)))])
    owner = await store.own(0)
    with pytest.raises(Fenced):
        await store.save(stale, [(VIEW, capture(Chilled([Row(b"a", 1, b"stale")], [(b"b", 1)], [b"c\0"])))])
    assert await store.cold(owner, VIEW) == Rows(4, 200)
    assert (await store.fetch(VIEW, 0, Wanted([b"a"]))).rows == [(b"a", b"A")]


async def test_partitions_and_views_have_rows_of_their_own_and_a_forgotten_version_has_none(
    pool: Pool, tmp_path: Path
) -> None:
    store, other = Store(pool, Artifacts(tmp_path)), views()["by-flight"]
    for partition in range(2):
        owner = await store.own(partition)
        mine = [row._replace(due_us=row.due_us + partition) for row in ROWS]
        await store.save(owner, [(view, capture(Chilled(put=mine))) for view in (VIEW, other)])
    assert await store.cold(owner, VIEW) == Rows(4, 201)
    await store.forget([(other.name, other.version)], after_s=0)
    await store.forget([(other.name, other.version)], after_s=0)
    assert [len(await cold_entries(store, view, 1)) for view in (VIEW, other)] == [0, 4]
    assert await pool.fetchval("SELECT count(*) FROM features.cold") == 8
