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
from uuid import UUID

import msgspec

from tidemill_serving.domain.answers import Remembered, recall
from tidemill_serving.domain.entries import Entry, LogRefusedError
from tidemill_serving.domain.once import Known
from tidemill_serving.spool.log import Spool
from tidemill_serving.spool.segments import SUFFIX, boot_id, read_entry, read_header

MAGIC = b"TMIDS001"
BUCKETS, WAYS = 8192, 16
LOCK_S = 1.0
"""For the lock: who holds it writes one batch. Longer means that the holder was stopped in the middle."""
_HEAD = struct.Struct("<8s40sQ?xHxxxxQQ")  # magic, boot, entries made; whether a note stands: worker, segment, offset
_SLOT = struct.Struct("<16sQQIHxx")  # id, ordinal, segment, offset, worker
_BEGIN, _BUCKET = 128, _SLOT.size * WAYS
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
        self.is_new = self._head()[:2] != (MAGIC, _boot())

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
            self._set_head(self._head()[2], None)

    @contextmanager
    def held(self, note: Place) -> Iterator[None]:
        """Hold the table while records are looked up and written behind `note`; raises LogRefusedError."""
        with self._locked():
            _, _, made, is_noted, *left = self._head()
            if is_noted:
                self._read_on(Place(*left))
                made = self._head()[2]
            self._set_head(made, note)
            yield
            self._set_head(self._head()[2], None)

    def find(self, identity: str) -> Remembered | None:
        """What was answered under an id, as far as its record is still on the disk."""
        key = UUID(identity).bytes
        at = self._slot(key)
        if at is None:
            return None
        _, _, segment, offset, worker = _SLOT.unpack_from(self._map, at)
        entry = read_entry(spool_of(self._root, worker) / f"{segment:020d}{SUFFIX}", offset)
        found = _remembered(entry)
        return found[1] if found is not None and found[0] == identity else None

    def put(self, identity: str, place: Place) -> None:
        """Enter the place of a record."""
        key = UUID(identity).bytes
        start = _start(key)
        at = self._slot(key)
        if at is None:
            slots = range(start, start + _BUCKET, _SLOT.size)
            at = min(slots, key=lambda slot: struct.unpack_from("<Q", self._map, slot + 16)[0])
        magic, boot, made, *note = self._head()
        _SLOT.pack_into(self._map, at, key, made + 1, place.segment, place.offset, place.worker)
        _HEAD.pack_into(self._map, 0, magic, boot, made + 1, *note)

    def _slot(self, key: bytes) -> int | None:
        start = _start(key)
        at = self._map.find(key, start, start + _BUCKET)
        while at >= 0 and (at - start) % _SLOT.size:
            at = self._map.find(key, at + 1, start + _BUCKET)
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

    def _head(self) -> tuple[bytes, bytes, int, bool, int, int, int]:
        magic, boot, made, noted, worker, segment, offset = _HEAD.unpack_from(self._map, 0)
        return magic, boot.rstrip(b"\0"), made, noted, worker, segment, offset

    def _set_head(self, made: int, note: Place | None) -> None:
        _HEAD.pack_into(self._map, 0, MAGIC, _boot(), made, note is not None, *(note or Place(0, 0, 0)))

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

    def append_once(self, entries: Sequence[Entry], identities: Sequence[str]) -> Known:
        """See the protocol."""
        newest = self._spool.segments[-1]
        with self._ids.held(Place(self._worker, newest.first, newest.size)):
            known = {name: found for name in identities if (found := self._ids.find(name)) is not None}
            left = [entry for entry in entries if _identity(entry) not in known] if known else entries
            if left:
                number, wanted = self._spool.append(left), set(identities)
                for at, entry in enumerate(left, number):
                    name, kept = _identity(entry), self._spool.kept(at)
                    if name in wanted and kept is not None:
                        self._ids.put(name, Place(self._worker, kept.segment.first, kept.end - kept.size))
        return known


def _identity(entry: Entry) -> str:
    return next((value.decode() for name, value in entry.headers if name == "ce_id"), "")


def _remembered(entry: tuple[Entry, int] | None) -> tuple[str, Remembered] | None:
    if entry is None or entry[0].kind != "prediction":
        return None
    try:
        return recall(entry[0].value)
    except msgspec.MsgspecError:
        return None


def _start(key: bytes) -> int:
    return _BEGIN + int.from_bytes(key[:4], "little") % BUCKETS * _BUCKET


def _boot() -> bytes:
    return boot_id().encode()[:40]
