"""The table of ids that workers share: an id is logged once whoever is asked, also when somebody dies."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from serving_spool import everything

from tidemill_contracts.ids import prediction_id
from tidemill_serving.domain.answers import Record, encode_record, mark_of, recall
from tidemill_serving.domain.entries import Entry, LogRefusedError
from tidemill_serving.spool import OnceLog, SharedIds, Spool, SpoolReader, spool_of
from tidemill_serving.spool import ids as ids_module
from tidemill_serving.spool.ids import BUCKETS, WAYS, Place
from tidemill_serving.spool.log import SpoolLimits
from tidemill_testkit.waiting import until_sync

CONTEXT = multiprocessing.get_context("fork")
SMALL = SpoolLimits(segment_bytes=4000)


def record(name: str, score: float) -> Entry:
    identity = str(prediction_id("flights", name))
    body = Record(
        identity, "flights", name, 7, 1, "m" * 64, 1, score, {}, {}, msgspec.Raw(b"[1.0]"), "f" * 64,
        {"view": msgspec.Raw(b'{"revision":3,"at_us":5}')}, {"flight": name}, [], False, 5, "t" * 32,
    )  # fmt: skip
    return Entry("prediction", "flights", "t", 0, name.encode(), encode_record(body), [("ce_id", identity.encode())], 7)


def ordered(name: str, score: float, origin: bytes) -> Entry:
    """An answer to a request over Kafka."""
    made = record(name, score)
    head = [*made.headers, ("tm_origin", origin)]
    return Entry("bulk", made.pipeline, made.topic, 0, made.key, made.value, head, 7)


def identity(entry: Entry) -> str:
    return entry.headers[0][1].decode()


class Worker:
    """One worker's spool and its view of the table."""

    def __init__(self, root: Path, number: int) -> None:
        self.spool = Spool(spool_of(root, number), SMALL)
        self.spool.open()
        self.ids = SharedIds(root)
        self.log = OnceLog(self.spool, self.ids, number)

    def answer(self, *entries: Entry) -> dict[str, bytes]:
        fresh = {identity(entry): recall(entry.value, entry.origin)[1] for entry in entries}
        found = self.log.append_once(entries, fresh)
        return {name: known.answer for name, known in found.items()}

    def logged(self) -> list[str]:
        return [identity(entry) for _, _, entry in everything(SpoolReader(self.spool, self.spool.segments[0].first))]

    def close(self) -> None:
        self.spool.close()
        self.ids.close()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Worker, Worker]]:
    first, second = Worker(tmp_path, 0), Worker(tmp_path, 1)
    yield first, second
    first.close()
    second.close()


def test_what_one_worker_has_answered_another_repeats(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    one, two, three = record("a", 0.25), record("a", 0.75), record("b", 0.5)
    assert first.answer(one) == {}
    assert second.answer(two, three).keys() == {identity(one)}
    known = second.ids.find(identity(one))
    assert known is not None
    assert known.inputs == mark_of({"flight": "a"})
    assert msgspec.json.decode(known.answer)["score"] == 0.25
    assert (first.logged(), second.logged()) == ([identity(one)], [identity(three)])


def test_an_answer_that_never_left_for_kafka_gives_way_to_one_for_the_same_record(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    assert first.answer(ordered("a", 0.25, b"0:5:0")) == {}
    assert second.answer(record("a", 0.5)).keys() == {identity(record("a", 0.5))}  # over HTTP it is the answer
    assert second.answer(ordered("a", 0.5, b"0:6:0")).keys() == {identity(record("a", 0.5))}  # sent again: it is known
    assert second.answer(ordered("a", 0.75, b"0:5:0")) == {}  # read again: it is not in Kafka
    known = first.ids.find(identity(record("a", 0.5)))
    assert known is not None
    assert (msgspec.json.decode(known.answer)["score"], known.origin) == (0.75, b"0:5:0")


def test_records_are_found_in_every_segment_and_not_when_they_are_gone(pair: tuple[Worker, Worker]) -> None:
    first, second = pair
    entries = [record(f"r{number}", 0.5) for number in range(50)]
    for entry in entries:
        assert first.answer(entry) == {}
    assert len(first.spool.segments) > 2
    assert all(second.ids.find(identity(entry)) is not None for entry in entries)
    gone = first.spool.segments[0].end
    first.spool._limits = SpoolLimits(segment_bytes=4000, keep_bytes=0)
    first.spool.trim(first.spool.end)
    assert second.ids.find(identity(entries[gone - 1])) is None
    assert second.ids.find(identity(entries[-1])) is not None


@pytest.mark.parametrize("torn", [0, 5])
def test_a_death_between_the_record_and_its_entry_loses_nothing(
    pair: tuple[Worker, Worker], torn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pair
    before, last = record("before", 0.5), record("last", 0.25)
    first.answer(before)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(first.ids, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        first.answer(last)
    if torn:
        path = first.spool.segments[-1].path
        os.truncate(path, path.stat().st_size - torn)
    assert second.answer(record("other", 0.5)) == {}
    assert second.answer(record("last", 0.75)).keys() == ({identity(last)} if not torn else set())
    assert second.answer(record("before", 0.75)).keys() == {identity(before)}


def test_a_full_group_gives_up_its_oldest(pair: tuple[Worker, Worker]) -> None:
    table = pair[0].ids
    names = [f"{number:032x}" for number in range(WAYS + 1)]
    start = ids_module._start(bytes.fromhex(names[0]))
    assert {ids_module._start(bytes.fromhex(name)) for name in names} == {start}
    for at, name in enumerate(names):
        table.put(name, Place(0, 0, at))
    assert table._slot(bytes.fromhex(names[0])) is None
    assert all(table._slot(bytes.fromhex(name)) is not None for name in names[1:])
    assert BUCKETS * WAYS > 100_000


def test_a_table_of_another_boot_is_filled_from_the_spools(pair: tuple[Worker, Worker], tmp_path: Path) -> None:
    first, second = pair
    first.answer(record("a", 0.5))
    second.answer(record("b", 0.5))
    (tmp_path / "ids").unlink()
    again = SharedIds(tmp_path)
    assert again.is_new
    assert again.find(identity(record("a", 0.5))) is None
    again.fill(range(3))
    assert all(again.find(identity(record(name, 0.5))) is not None for name in "ab")
    again.close()
    assert not SharedIds(tmp_path).is_new


def test_a_stopped_holder_is_not_waited_for_for_ever(
    pair: tuple[Worker, Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ids_module, "LOCK_S", 0.05)
    with pair[0].ids.held(Place(0, 0, 0)), pytest.raises(LogRefusedError):
        pair[1].answer(record("a", 0.5))
    assert pair[1].answer(record("a", 0.5)) == {}


def _hammer(root: Path, number: int, names: list[str]) -> None:
    worker = Worker(root, number)
    for name in names:
        worker.answer(record(name, number / 10))
    os._exit(0)


def test_workers_that_are_killed_at_any_moment_log_each_id_once(tmp_path: Path) -> None:
    """Three processes answer the same ids at once; two are killed on the way, and started again."""
    names = [f"n{number}" for number in range(1500)]
    children = [CONTEXT.Process(target=_hammer, args=(tmp_path, number, names)) for number in range(3)]
    for child in children:
        child.start()
    for victim in children[:2]:
        assert victim.pid is not None
        until_sync(lambda: len(list(tmp_path.rglob("*.spool"))) > 20, "they are on their way", timeout_s=30)
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(30)
    again = [CONTEXT.Process(target=_hammer, args=(tmp_path, number, names)) for number in range(2)]
    for child in again:
        child.start()
    for child in [*again, children[2]]:
        child.join(60)
        assert child.exitcode == 0
    logged = [name for number in range(3) for name in Worker(tmp_path, number).logged()]
    assert len(logged) == len(set(logged)) == len(names)
