"""Which ids the workers of one instance have answered: one table in a file that all of them map.

Between the lookup of an id and the entry of its record nobody else may do the same, so both happen under one lock,
which a batch takes once; the models have been run before, and batches without ids of their own never take it. Whoever
holds the lock first notes where its spool ends. If it dies then, the next holder reads on from there and enters what
had got into the spool: so whenever the lock is free, the table knows every record with an id of its own.

The table is bounded: `WAYS` places for each of `BUCKETS` groups of ids, of which the oldest is given up for a new one.
"""

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidemill_serving.domain.answers import Remembered, recall
from tidemill_serving.domain.entries import Entry, LogRefusedError
from tidemill_serving.domain.frames import Logged, apart, entries_in
from tidemill_serving.domain.once import Known, is_void
from tidemill_serving.spool.log import Spool
from tidemill_serving.spool.segments import SUFFIX, boot_id, read_entry, read_header

MAGIC = b"TMIDS002"
BUCKETS, WAYS = 8192, 16
LOCK_S = 1.0
"""For the lock: who holds it writes one batch. Longer means that the holder was stopped in the middle."""
_HEAD = struct.Struct("<8s40s")  # magic, boot
_NOTE, _NOTED = struct.Struct("<QQHH"), 64  # segment, offset, worker, whether it stands
_SLOT = struct.Struct("<16sQQIxxxx")  # id, segment, offset, worker
_FIRST, _BEGIN = 8, 128
_BUCKET = _FIRST + _SLOT.size * WAYS  # behind the number of entries that were made in it
_SIZE = _BEGIN + BUCKETS * _BUCKET


class Place(NamedTuple):
    """Where a record is: the worker's spool, the segment's first number, the frame's offset."""

    worker: int
    segment: int
    offset: int


def spool_of(root: Path, worker: int) -> Path:
    """The spool's folder of a worker of the instance whose folder is `root`."""
    return state_of(root, worker) / "spool"


def state_of(root: Path, worker: int) -> Path:
    """The folder of a worker: the first has that of the instance, as a process without siblings has."""
    return root if worker == 0 else root / "workers" / str(worker)


class SharedIds:
    """The table, opened by one process."""

    def __init__(self, root: Path) -> None:
        """Open or make the table of the instance whose folder is `root`."""
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        self._file = os.open(root / "ids", os.O_CREAT | os.O_RDWR, 0o600)
        with self._locked():
            if os.fstat(self._file).st_size != _SIZE:
                os.ftruncate(self._file, 0)
                os.ftruncate(self._file, _SIZE)
            self._map = mmap.mmap(self._file, _SIZE)
        self._boot = boot_id().encode()[:40].ljust(40, b"\0")
        self.is_new = _HEAD.unpack_from(self._map) != (MAGIC, self._boot)

    def close(self) -> None:
        """Give the file back; the table stays."""
        self._map.close()
        os.close(self._file)

    def fill(self, workers: Sequence[int]) -> None:
        """Enter what the spools of these workers hold, when nobody else uses the table: after an upgrade or a boot."""
        with self._locked():
            self._map[:] = bytes(_SIZE)
            for worker in workers:
                self._read_on(Place(worker, 0, 0))
            _HEAD.pack_into(self._map, 0, MAGIC, self._boot)

    @contextmanager
    def held(self, note: Place) -> Iterator[None]:
        """Hold the table while records are looked up and written behind `note`; raises LogRefusedError."""
        with self._locked():
            segment, offset, worker, is_noted = _NOTE.unpack_from(self._map, _NOTED)
            if is_noted:
                self._read_on(Place(worker, segment, offset))
            _NOTE.pack_into(self._map, _NOTED, note.segment, note.offset, note.worker, 1)
            yield
            _NOTE.pack_into(self._map, _NOTED, 0, 0, 0, 0)

    def find(self, identity: str) -> Remembered | None:
        """What was answered under an id, as far as its record is still on the disk."""
        at = self._slot(_key(identity))
        if at is None:
            return None
        _, segment, offset, worker = _SLOT.unpack_from(self._map, at)
        entry = read_entry(spool_of(self._root, worker) / f"{segment:020d}{SUFFIX}", offset)
        found = _remembered(entry)
        return found[1] if found is not None and found[0] == identity else None

    def put(self, identity: str, place: Place) -> None:
        """Enter the place of a record: in its old place, or in that of the oldest of its group."""
        key = _key(identity)
        at = self._slot(key)
        if at is None:
            start = _start(key)
            made = int.from_bytes(self._map[start : start + _FIRST], "little")
            self._map[start : start + _FIRST] = (made + 1).to_bytes(_FIRST, "little")
            at = start + _FIRST + made % WAYS * _SLOT.size
        _SLOT.pack_into(self._map, at, key, place.segment, place.offset, place.worker)

    def _slot(self, key: bytes) -> int | None:
        first = _start(key) + _FIRST
        end = first + _SLOT.size * WAYS
        at = self._map.find(key, first, end)
        while at >= 0 and (at - first) % _SLOT.size:
            at = self._map.find(key, at + 1, end)
        return at if at >= 0 else None

    def _read_on(self, note: Place) -> None:
        """Enter every prediction that the spool of a worker holds from a place on."""
        for path in sorted(spool_of(self._root, note.worker).glob(f"*{SUFFIX}")):
            first = int(path.stem)
            if first < note.segment:
                continue
            header, offset = read_header(path)
            offset = max(offset, note.offset if first == note.segment else 0)
            while header is not None and (entry := read_entry(path, offset)) is not None:
                found = _remembered(entry)
                if found is not None:
                    self.put(found[0], Place(note.worker, first, offset))
                offset += entry[1]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise LogRefusedError("another worker holds the table of ids") from None
                time.sleep(0.0001)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class OnceLog:
    """The spool of one worker and the ids of all: `tidemill_serving.domain.once.Once`."""

    def __init__(self, spool: Spool, ids: SharedIds, worker: int) -> None:
        self._spool, self._ids, self._worker = spool, ids, worker

    def append_once(self, entries: Sequence[Logged], fresh: Known) -> Known:
        """See the protocol."""
        newest = self._spool.segments[-1]
        with self._ids.held(Place(self._worker, newest.first, newest.size)):
            known = {
                name: found
                for name, new in fresh.items()
                if (found := self._ids.find(name)) is not None and not is_void(found, new)
            }
            left = [entry for entry in apart(entries) if _identity(entry) not in known] if known else entries
            if left:
                number, wanted = self._spool.append(left), fresh.keys()
                for block in self._spool.tail.since(number):
                    offset = block.start
                    for entry, end in entries_in(block.raw):
                        if (name := _identity(entry)) in wanted:
                            self._ids.put(name, Place(self._worker, block.segment.first, offset))
                        offset = block.start + end
        return known


def _identity(entry: Entry) -> str:
    for name, value in entry.headers:
        if name == "ce_id":
            return value.decode()
    return ""


def _remembered(entry: tuple[Entry, int] | None) -> tuple[str, Remembered] | None:
    if entry is None or entry[0].kind not in {"prediction", "bulk"}:
        return None
    try:
        return recall(entry[0].value, entry[0].origin)
    except msgspec.MsgspecError:
        return None


def _start(key: bytes) -> int:
    return _BEGIN + int.from_bytes(key[:4], "little") % BUCKETS * _BUCKET


def _key(identity: str) -> bytes:
    return bytes.fromhex(identity.replace("-", ""))
