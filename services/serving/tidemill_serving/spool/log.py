"""The prediction log on this machine's disk: an answer leaves only after its record is here; Kafka gets it from here.

A folder of segment files, each named by the number of its first record. A file is `MAGIC`, a header frame and
record frames; a frame is length, CRC-32 and bytes. Appending is one `write` per micro-batch, so a record is safe from a
crash of the process as soon as `append` returns (the page cache is the kernel's); `fsync` makes it safe from a crash of
the machine too, and is off unless asked for. A torn last frame is cut off at opening: its answer had not left.
"""

import errno
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tidemill_runtime.errors import Configuration
from tidemill_serving.domain.entries import Entry, LogRefusedError, Tally, copy_tallies, count
from tidemill_serving.domain.frames import Logged, count_logged, framed
from tidemill_serving.spool.sampling import sampled
from tidemill_serving.spool.segments import SUFFIX, Header, Segment, boot_id, read_header
from tidemill_serving.spool.tail import Block, Tail

_log = logging.getLogger(__name__)
_RESERVE = "reserve"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
RESERVE_BYTES = 64 * 1024
"""Of a file that is given up on a full disk, so that there is room for a new segment once Kafka has the old ones."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Bytes: of one segment file, of records not shipped yet, and of shipped ones kept for repeated requests.

    `sample`: the share of predictions that is logged at the limit; None: there answers are refused.
    `patience_s`: how long to wait for an owner of the folder that is about to be gone.
    """

    segment_bytes: int = 8 * 1024 * 1024
    pending_bytes: int = 1024 * 1024 * 1024
    keep_bytes: int = 16 * 1024 * 1024
    fsync: bool = False
    patience_s: float = 0.0
    sample: float | None = None


class Spool:
    """Append-only records with rising numbers, over restarts. One process at a time owns the folder.

    A record's origin is the identity of its segment and its number. After a torn tail or on another boot of the machine
    the next segment has a new identity: shipped records may be missing here, and their origins must not come again.
    """

    def __init__(self, folder: Path, limits: SpoolLimits | None = None) -> None:
        self._folder, self._limits = folder, limits or SpoolLimits()
        self.segments: list[Segment] = []
        self.tallies: dict[str, Tally] = {}
        self.unlogged: dict[str, int] = {}
        self._identity = self._next = self._shipped = 0
        self._lock = self._file = -1
        self.tail = Tail()
        self._is_disk_full = False

    @property
    def end(self) -> int:
        """The number that the next record gets."""
        return self.segments[-1].end

    def open(self, seen: Callable[[int, Entry], None] | None = None) -> None:
        """Take the folder, cut a torn tail, count, and show every retained record to `seen` in order.

        Raises Configuration when another process owns the folder.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        self._take(time.monotonic() + self._limits.patience_s)
        whole = self._load(seen)
        if not (whole and self.segments and self.segments[-1].boot == boot_id()):
            self._identity = secrets.randbits(31)
            self._start_segment(self._next + len(self.segments[-1:]))  # a file's name may not come again either
        else:
            self._file = os.open(self.segments[-1].path, os.O_WRONLY | os.O_APPEND)
        self._keep_reserve()

    def _take(self, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > deadline:
                    raise Configuration(f"another process uses the spool {self._folder}") from None
                time.sleep(0.01)
            else:
                return

    def close(self) -> None:
        """Give the folder back."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def append(self, entries: Sequence[Logged]) -> int:
        """Write all of them with one call and return the number of the first; all or none are in.

        At the limit a sample of the predictions goes in, where that is the policy, up to a quarter above it.
        Raises LogRefusedError when the limit is reached or the disk refuses.
        """
        pending, limit = self.pending_bytes, self._limits.pending_bytes
        if pending > limit:
            if self._limits.sample is None or pending > limit + limit // 4:
                raise LogRefusedError(f"more than {limit} bytes wait for Kafka")
            entries = sampled(entries, self._limits.sample, self.unlogged)
            if not entries:
                return self.end
        if self.segments[-1].size >= self._limits.segment_bytes:
            self._rotate()
        first, raw = self.end, framed(entries)
        self._write_somewhere(raw)
        segment = self.segments[-1]
        if raw:
            end = first + count_logged(self.tallies, entries)
            self.tail.add(Block(segment, first, end, raw, segment.size))
            segment.size, segment.end = segment.size + len(raw), end
        return first

    @property
    def pending_bytes(self) -> int:
        """Bytes of all segments that hold records not shipped yet."""
        return sum(segment.size for segment in self.segments if segment.end > self._shipped)

    def trim(self, shipped: int) -> None:
        """Records below `shipped` are in Kafka: delete their segments, but keep `keep_bytes` for repeated requests."""
        self._shipped = shipped
        if self._is_disk_full and self._file >= 0:
            self._make_room()
        kept = sum(segment.size for segment in self.segments if segment.end <= shipped)
        keep_bytes = 0 if self._is_disk_full else self._limits.keep_bytes
        while len(self.segments) > 1 and self.segments[0].end <= shipped and kept > keep_bytes:
            segment = self.segments.pop(0)
            kept -= segment.size
            segment.path.unlink(missing_ok=True)
        if self._is_disk_full:
            self._keep_reserve()

    def _make_room(self) -> None:
        """The disk is full: begin a new segment as soon as Kafka has all of the present one, so that it can go."""
        if self.segments[-1].end <= self._shipped and self.segments[-1].size > self.segments[-1].start:
            with suppress(LogRefusedError):
                self._rotate()

    def _keep_reserve(self) -> None:
        """Whether there is room for the reserve tells whether the disk is full."""
        path = self._folder / _RESERVE
        try:
            if not path.exists() or path.stat().st_size < RESERVE_BYTES:
                path.write_bytes(b"\xff" * RESERVE_BYTES)
        except OSError:
            path.unlink(missing_ok=True)
            self._is_disk_full = True
        else:
            self._is_disk_full = False

    def shipped_predictions(self, shipped: int) -> dict[str, int]:
        """Predictions per pipeline among the records below `shipped`."""
        begun = [segment for segment in self.segments if segment.first < shipped]
        tallies = copy_tallies((begun or self.segments)[-1 if begun else 0].before)
        for segment in begun[-1:]:  # what came before stands in its header
            for number, entry, _ in segment.entries(segment.first, segment.start):
                if number >= shipped:
                    break
                count(tallies, [entry])
        return {pipeline: tally.predictions for pipeline, tally in tallies.items()}

    def _load(self, seen: Callable[[int, Entry], None] | None) -> bool:
        """Read every segment; whether all bytes of all files were whole."""
        whole = True
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            header, offset = read_header(path)
            if header is None:
                whole = False
                # More than the numbers it can have held, so that none of them comes again.
                self._next = max(self._next, int(path.stem) + path.stat().st_size)
                _log.error("spool segment %s has no readable header and is set aside", path.name)
                path.rename(path.with_suffix(".broken"))
                continue
            self._identity, self.tallies = header.identity, copy_tallies(header.tallies)
            self.segments.append(Segment(path, header, offset))
            whole = self._scan(self.segments[-1], seen) and whole
        return whole

    def _scan(self, segment: Segment, seen: Callable[[int, Entry], None] | None) -> bool:
        for number, entry, end in segment.entries(segment.first, segment.start):
            segment.end, segment.size = number + 1, end
            count(self.tallies, [entry])
            if seen is not None:
                seen(number, entry)
        self._next = max(self._next, segment.end)
        torn = segment.path.stat().st_size - segment.size
        if torn:
            _log.warning("%d bytes at the end of spool segment %s are torn and cut off", torn, segment.path.name)
            os.truncate(segment.path, segment.size)
        return torn == 0

    def _start_segment(self, first: int) -> None:
        path = self._folder / f"{first:020d}{SUFFIX}"
        header = Header(self._identity, boot_id(), first, copy_tallies(self.tallies))
        try:
            size = header.write(path)
        except OSError:
            (self._folder / _RESERVE).unlink(missing_ok=True)
            self._is_disk_full = True
            size = header.write(path)
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        if self._file >= 0:
            os.close(self._file)
        self._file = file
        self.segments.append(Segment(path, header, size))

    def _rotate(self) -> None:
        try:
            self._start_segment(self.end)
        except OSError as error:
            raise LogRefusedError(f"a new segment cannot be made: {error.strerror}") from error

    def _write_somewhere(self, raw: bytes) -> None:
        """Into the newest segment; on a full disk after one more look for what Kafka has and need not be here."""
        try:
            self._write(self.segments[-1], raw)
        except LogRefusedError:
            if not self._is_disk_full:
                raise
            self.trim(self._shipped)
            self._write(self.segments[-1], raw)

    def _write(self, segment: Segment, raw: bytes) -> None:
        view = memoryview(raw)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            if self._limits.fsync:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, segment.size)
            self._is_disk_full = error.errno in _FULL
            raise LogRefusedError(f"the disk refused the record: {error.strerror}") from error
