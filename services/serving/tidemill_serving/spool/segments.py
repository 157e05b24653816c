"""One segment file of the spool: frames of length, CRC-32 and bytes behind a header that carries the counts so far."""

import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tidemill_serving.domain.entries import Entry, Tally
from tidemill_serving.domain.frames import HEAD, decode, frame

MAGIC, SUFFIX = b"TMSPOOL1", ".spool"
MAXIMUM_FRAME = 16 * 1024 * 1024


class Header(msgspec.Struct):
    """First frame of a segment: whose records, on which boot, the number of the first, and the counts before it."""

    identity: int
    boot: str
    first: int
    tallies: dict[str, Tally]

    def write(self, path: Path) -> int:
        """Make the file and return its size; raises OSError, and then leaves no file."""
        raw = MAGIC + frame(msgspec.msgpack.encode(self))
        try:
            path.write_bytes(raw)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return len(raw)


class Segment:
    """Records `first` to `end` (exclusive) in bytes `start` to `size` of a file; `before` are the counts there."""

    __slots__ = ("before", "boot", "end", "first", "identity", "path", "size", "start")

    def __init__(self, path: Path, header: Header, size: int) -> None:
        self.path, self.identity, self.boot, self.before = path, header.identity, header.boot, header.tallies
        self.first = self.end = header.first
        self.start = self.size = size

    def entries(self, number: int, offset: int) -> Iterator[tuple[int, Entry, int]]:
        """(number, record, offset after it) of every whole frame from `offset`, where record `number` begins."""
        for raw, end in read_frames(self.path, offset):
            try:
                entry = decode(raw)
            except msgspec.MsgspecError:
                return
            yield number, entry, end
            number += 1


def boot_id() -> str:
    """Names this boot of the machine; empty where the system has no such name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def read_frames(path: Path, offset: int) -> Iterator[tuple[bytes, int]]:
    """(bytes, offset after them) of each whole frame from `offset`, up to the first that is torn or does not check."""
    with path.open("rb") as file:
        file.seek(offset)
        while len(head := file.read(HEAD.size)) == HEAD.size:
            length, checksum = HEAD.unpack(head)
            raw = file.read(length) if length <= MAXIMUM_FRAME else b""
            if len(raw) != length or zlib.crc32(raw) != checksum:
                return
            offset += HEAD.size + length
            yield raw, offset


def read_entry(path: Path, offset: int) -> tuple[Entry, int] | None:
    """The record whose frame begins at an offset, and the frame's length; None without a whole one."""
    try:
        for raw, end in read_frames(path, offset):
            return decode(raw), end - offset
    except (OSError, msgspec.MsgspecError):
        return None
    return None


def read_header(path: Path) -> tuple[Header | None, int]:
    """The header of a segment and the offset of its first record; None when it is torn."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None, 0
    for raw, end in read_frames(path, len(MAGIC)):
        return msgspec.msgpack.decode(raw, type=Header), end
    return None, 0
