"""Checkpoints on a real Postgres: what was saved last is what is loaded, and a stale owner is fenced."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from features_cases import views

from tidemill_features.domain.marks import Capture, Marks
from tidemill_features.domain.route import RouteMarks
from tidemill_features.domain.segments import Owner, SegmentRef, merge, pack, plan, unpack
from tidemill_features.domain.views import View
from tidemill_features.store import Store
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Fenced, Later
from tidemill_runtime.postgres import Pool

pytestmark = pytest.mark.anyio
MARKS = Marks(7, {0: 3, 2: 5}, {0: 100, 1: 50}, 50)


@pytest.fixture
def view() -> View:
    return views()["by-carrier"]


@pytest.fixture
def store(pool: Pool, tmp_path: Path) -> Store:
    return Store(pool, Artifacts(tmp_path), inline_bytes=200)


def entries(low: int, high: int, blob: bytes = b"x") -> list[tuple[bytes, bytes | None]]:
    return [(b"%06d" % n, blob + b"%d" % n) for n in range(low, high)]


async def test_what_was_saved_last_is_what_is_loaded(store: Store, view: View) -> None:
    owner = await store.own(1)
    assert await store.load(owner, view) == (Marks(), [])
    await store.save(owner, [(view, Capture(entries(0, 5), MARKS))])
    await store.save(owner, [(view, Capture([(b"000003", None), (b"000009", b"new")], MARKS))])
    expected = [*entries(0, 3), *entries(4, 5), (b"000009", b"new")]
    assert await store.load(await store.own(1), view) == (MARKS, expected)
    assert await store.load(await store.own(2), view) == (Marks(), [])


async def test_a_capture_without_entries_moves_the_marks(store: Store, view: View) -> None:
    owner = await store.own(0)
    await store.save(owner, [(view, Capture([], MARKS))])
    assert await store.load(owner, view) == (MARKS, [])


async def test_large_segments_lie_in_the_artifacts_and_go_when_they_are_merged(
    store: Store, view: View, pool: Pool, tmp_path: Path
) -> None:
    owner = await store.own(0)
    known: dict[bytes, bytes | None] = {}
    for turn in range(20):
        fresh = entries(turn * 50, turn * 50 + 100, b"%d-" % turn)
        known.update(fresh)
        await store.save(owner, [(view, Capture(fresh, MARKS))])
    rows = await pool.fetch("SELECT digest FROM features.segments")
    assert files(tmp_path) == sorted(row["digest"] for row in rows if row["digest"])
    assert len(rows) <= 6
    assert await store.load(await store.own(0), view) == (MARKS, sorted(known.items()))


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def test_a_stale_owner_is_fenced_and_changes_nothing(
    store: Store, view: View, pool: Pool, tmp_path: Path
) -> None:
    stale = await store.own(0)
    await store.save(stale, [(view, Capture(entries(0, 100), MARKS))])
    owner = await store.own(0)
    before = await store.load(owner, view)
    with pytest.raises(Fenced):
        await store.save(stale, [(view, Capture(entries(0, 100, b"stale"), Marks(99)))])
    with pytest.raises(Fenced):
        await store.check(stale)
    assert await Store(pool, Artifacts(tmp_path)).load(owner, view) == before
    await store.save(owner, [(view, Capture(entries(5, 6, b"new"), MARKS))])


async def test_two_owners_at_once_have_one_winner(store: Store, view: View) -> None:
    owners = await asyncio.gather(*(store.own(0) for _ in range(8)))
    assert sorted(owner.epoch for owner in owners) == list(range(1, 9))
    saves = [store.save(owner, [(view, Capture(entries(0, 1, b"%d" % owner.epoch), MARKS))]) for owner in owners]
    results = await asyncio.gather(*saves, return_exceptions=True)
    assert [type(result) for result in results].count(Fenced) == 7
    newest = max(owners, key=lambda owner: owner.epoch)
    assert (await store.load(newest, view))[1] == [(b"000000", b"80")]


class LosesTheAnswer(Store):
    """The commit happens; the answer does not arrive."""

    lost = False

    async def _write(self, owner: Owner, writes: object) -> None:
        await super()._write(owner, writes)  # type: ignore[arg-type]  # the base's own type is private
        if not self.lost:
            self.lost = True
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


async def test_a_commit_without_an_answer_is_repeated_without_effect(pool: Pool, view: View, tmp_path: Path) -> None:
    store = LosesTheAnswer(pool, Artifacts(tmp_path))
    owner = await store.own(0)
    captures = [(view, Capture(entries(0, 5), MARKS))]
    with pytest.raises(Later):
        await store.save(owner, captures)
    await store.save(owner, captures)
    assert owner.generation == 1
    await store.save(owner, [(view, Capture(entries(5, 6), MARKS))])
    assert await store.load(owner, view) == (MARKS, entries(0, 6))


async def test_a_damaged_segment_is_noticed(store: Store, view: View, pool: Pool) -> None:
    owner = await store.own(0)
    await store.save(owner, [(view, Capture(entries(0, 2), MARKS))])
    await pool.execute("UPDATE features.segments SET body = 'damage'::bytea")
    with pytest.raises(ValueError, match="damaged"):
        await store.load(owner, view)


async def test_routes_move_forward_only(store: Store, view: View) -> None:
    assert await store.load_route(view, 0) == RouteMarks()
    await store.save_routes(0, [(view, RouteMarks(10, 8, 77))])
    await store.save_routes(0, [(view, RouteMarks(9, 7, 66))])
    assert await store.load_route(view, 0) == RouteMarks(10, 8, 77)
    await store.save_routes(0, [(view, RouteMarks(12, None, None))])
    assert await store.load_route(view, 0) == RouteMarks(12, None, None)


def test_a_segment_belongs_to_its_owner_and_its_format() -> None:
    raw = pack("a/1/0", entries(0, 3))
    assert raw == pack("a/1/0", entries(0, 3))
    assert unpack(raw, "a/1/0") == entries(0, 3)
    with pytest.raises(ValueError, match="a/1/0"):
        unpack(raw, "a/1/1")


def test_merging_keeps_the_newest_and_forgets_only_at_the_bottom() -> None:
    older, newer = [(b"a", b"1"), (b"b", b"1")], [(b"a", None), (b"c", b"2")]
    assert merge([older, newer], oldest=True) == [(b"b", b"1"), (b"c", b"2")]
    assert merge([older, newer], oldest=False) == [(b"a", None), (b"b", b"1"), (b"c", b"2")]


def test_there_are_logarithmically_many_segments() -> None:
    known: list[SegmentRef] = []
    written = 0
    for number in range(1000):
        keep, merged = plan(known, 10)
        size = 10 + sum(ref.size for ref in merged)
        written += size
        known = [*keep, SegmentRef(number, size, None)]
    assert len(known) <= 10
    assert written <= 10 * 1000 * 12
