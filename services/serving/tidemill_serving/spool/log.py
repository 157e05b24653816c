"""The prediction log on this machine's disk: an answer leaves only after its record is here; Kafka gets it from here.

A folder of segment files, each named by the number of its first record. A file is `MAGIC`, a header frame and
record frames; a frame is length, CRC-32 and bytes. Appending is one `write` per micro-batch, so a record is safe from a
crash of the process as soon as `append` returns (the page cache is the kernel's); `fsync` makes it safe from a crash of
the machine too, and is off unless asked for. A torn last frame is cut off at opening: its answer had not left.
"""

import fcntl
import logging
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidemill_runtime.errors import Configuration
from tidemill_serving.domain.entries import Entry, LogRefusedError, Tally, copy_tallies, count
from tidemill_serving.spool.segments import Header, Segment, frame, read_header

_log = logging.getLogger(__name__)
_SUFFIX = ".spool"
TAIL_BYTES = 4 * 1024 * 1024
"""Of the newest records, kept in memory for the shipper."""


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """Bytes: of one segment file, of records not shipped yet, and of shipped ones kept for repeated requests."""

    segment_bytes: int = 8 * 1024 * 1024
    pending_bytes: int = 1024 * 1024 * 1024
    keep_bytes: int = 16 * 1024 * 1024
    fsync: bool = False


class Kept(NamedTuple):
    """A new record, and where it ends on disk: who ships it at once need not read it again."""

    entry: Entry
    segment: Segment
    end: int
    size: int


class Spool:
    """Append-only records with rising numbers, over restarts. One process at a time owns the folder.

    A record's origin is the identity of its segment and its number. After a torn tail or on another boot of the machine
    the next segment has a new identity: shipped records may be missing here, and their origins must not come again.
    """

    def __init__(self, folder: Path, limits: SpoolLimits | None = None) -> None:
        self._folder, self._limits = folder, limits or SpoolLimits()
        self.segments: list[Segment] = []
        self.tallies: dict[str, Tally] = {}
        self._identity = self._next = self._shipped = 0
        self._lock = self._file = -1
        self._tail: dict[int, Kept] = {}
        self._tail_bytes = 0

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
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Configuration(f"another process uses the spool {self._folder}") from None
        whole = self._load(seen)
        if not (whole and self.segments and self.segments[-1].boot == _boot()):
            self._identity = secrets.randbits(31)
            self._start_segment(self._next + len(self.segments[-1:]))  # a file's name may not come again either
        self._file = os.open(self.segments[-1].path, os.O_WRONLY | os.O_APPEND)

    def close(self) -> None:
        """Give the folder back."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)
        self._file = self._lock = -1

    def append(self, entries: Sequence[Entry]) -> int:
        """Write all of them with one call and return the number of the first; all or none are in.

        Raises LogRefusedError when the limit is reached or the disk refuses.
        """
        if self.pending_bytes > self._limits.pending_bytes:
            raise LogRefusedError(f"more than {self._limits.pending_bytes} bytes wait for Kafka")
        if self.segments[-1].size >= self._limits.segment_bytes:
            self._rotate()
        first, segment = self.end, self.segments[-1]
        frames = [frame(_ENCODER.encode(entry)) for entry in entries]
        self._write(segment, b"".join(frames))
        for entry, framed in zip(entries, frames, strict=True):
            segment.size += len(framed)
            self._tail[segment.end] = Kept(entry, segment, segment.size, len(framed))
            self._tail_bytes += len(framed)
            segment.end += 1
            count(self.tallies, entry)
        while self._tail_bytes > TAIL_BYTES:
            self._tail_bytes -= self._tail.pop(next(iter(self._tail))).size
        return first

    def kept(self, number: int) -> "Kept | None":
        """A record that was appended not long ago, as long as memory still holds it."""
        return self._tail.get(number)

    @property
    def pending_bytes(self) -> int:
        """Bytes of all segments that hold records not shipped yet."""
        return sum(segment.size for segment in self.segments if segment.end > self._shipped)

    def trim(self, shipped: int) -> None:
        """Records below `shipped` are in Kafka: delete their segments, but keep `keep_bytes` for repeated requests."""
        self._shipped = shipped
        kept = sum(segment.size for segment in self.segments if segment.end <= shipped)
        while len(self.segments) > 1 and self.segments[0].end <= shipped and kept > self._limits.keep_bytes:
            segment = self.segments.pop(0)
            kept -= segment.size
            segment.path.unlink(missing_ok=True)

    def shipped_predictions(self, shipped: int) -> dict[str, int]:
        """Predictions per pipeline among the records below `shipped`."""
        tallies = copy_tallies(self.segments[0].before)
        for segment in self.segments:
            if segment.first >= shipped:
                break
            tallies = copy_tallies(segment.before)
            for number, entry, _ in segment.entries(segment.first, segment.start):
                if number < shipped:
                    count(tallies, entry)
        return {pipeline: tally.predictions for pipeline, tally in tallies.items()}

    def _load(self, seen: Callable[[int, Entry], None] | None) -> bool:
        """Read every segment; whether all bytes of all files were whole."""
        whole = True
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
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
            count(self.tallies, entry)
            if seen is not None:
                seen(number, entry)
        self._next = max(self._next, segment.end)
        torn = segment.path.stat().st_size - segment.size
        if torn:
            _log.warning("%d bytes at the end of spool segment %s are torn and cut off", torn, segment.path.name)
            os.truncate(segment.path, segment.size)
        return torn == 0

    def _start_segment(self, first: int) -> None:
        path = self._folder / f"{first:020d}{_SUFFIX}"
        header = Header(self._identity, _boot(), first, copy_tallies(self.tallies))
        self.segments.append(Segment(path, header, header.write(path)))

    def _rotate(self) -> None:
        try:
            self._start_segment(self.end)
            file = os.open(self.segments[-1].path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise LogRefusedError(f"a new segment cannot be made: {error.strerror}") from error
        os.close(self._file)
        self._file = file

    def _write(self, segment: Segment, raw: bytes) -> None:
        view = memoryview(raw)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            if self._limits.fsync:
                os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, segment.size)
            raise LogRefusedError(f"the disk refused the record: {error.strerror}") from error


class SpoolReader:
    """Reads on from a record number, in order, as far as the spool has got."""

    def __init__(self, spool: Spool, number: int) -> None:
        self._spool, self.number = spool, number
        self._segment: Segment | None = None
        self._offset = 0

    def batch(self, maximum: int) -> list[tuple[int, int, Entry]]:
        """At most `maximum` records as (identity, number, record); the reader then stands behind them."""
        out: list[tuple[int, int, Entry]] = []
        while len(out) < maximum and (kept := self._spool.kept(self.number)) is not None:
            out.append((kept.segment.identity, self.number, kept.entry))
            self.number, self._segment, self._offset = self.number + 1, kept.segment, kept.end
        while len(out) < maximum and (segment := self._current()) is not None:
            for number, entry, end in segment.entries(self.number, self._offset):
                if number >= segment.end or len(out) >= maximum:
                    break
                out.append((segment.identity, number, entry))
                self.number, self._offset = number + 1, end
            else:
                self.number = segment.end
        return out

    def _current(self) -> Segment | None:
        """The segment that holds the next record; None when there is none yet."""
        segment = next((segment for segment in self._spool.segments if segment.end > self.number), None)
        if segment is not None and segment is not self._segment:
            self._segment, self._offset = segment, segment.start
            wanted, self.number = self.number, segment.first
            for number, _, end in segment.entries(segment.first, segment.start):
                if number >= wanted:
                    break
                self.number, self._offset = number + 1, end
        return segment


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


_ENCODER = msgspec.msgpack.Encoder()

__all__ = ["Spool", "SpoolLimits", "SpoolReader"]
