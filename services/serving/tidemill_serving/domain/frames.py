"""How a record lies in the spool: its length, its CRC-32 and its msgpack. Many of them are written and read at once."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from tidemill_serving.domain.entries import Entry, Kind, Tally, count

HEAD = struct.Struct("<II")  # length, CRC-32
Bytes = NDArray[np.uint8]
compiled = numba.njit(cache=True, nogil=True, error_model="numpy")


class Sheaf(NamedTuple):
    """Records of one kind and pipeline as they go to the disk: whole frames, one behind the other."""

    kind: Kind
    pipeline: str
    raw: bytes
    records: int


Logged = Entry | Sheaf


def frame(raw: bytes) -> bytes:
    """Length, checksum and the bytes."""
    return HEAD.pack(len(raw), zlib.crc32(raw)) + raw


def framed(records: Sequence[Logged]) -> bytes:
    """The frames of all."""
    if len(records) == 1 and isinstance(whole := records[0], Sheaf):
        return whole.raw
    return b"".join([one.raw if isinstance(one, Sheaf) else frame(_ENCODER.encode(one)) for one in records])


def entries_in(raw: bytes) -> Iterator[tuple[Entry, int]]:
    """The records of whole frames, and where each frame ends."""
    at = 0
    while at < len(raw):
        begin = at + HEAD.size
        at = begin + HEAD.unpack_from(raw, at)[0]
        yield decode(raw[begin:at]), at


def apart(records: Sequence[Logged]) -> list[Entry]:
    """Each record by itself."""
    found: list[Entry] = []
    for one in records:
        found += [entry for entry, _ in entries_in(one.raw)] if isinstance(one, Sheaf) else [one]
    return found


def count_logged(tallies: dict[str, Tally], records: Sequence[Logged]) -> int:
    """Add records to the counts of their pipelines; how many they are."""
    total = 0
    for one in records:
        if isinstance(one, Sheaf):
            if one.kind == "prediction":
                tallies.setdefault(one.pipeline, Tally()).predictions += one.records
            total += one.records
        else:
            count(tallies, (one,))
            total += 1
    return total


def _tables() -> NDArray[np.uint64]:
    """CRC-32 of each byte with 0 to 7 bytes of zeros behind it: eight bytes of a text are taken at a time."""
    rows = np.zeros((8, 256), np.uint64)
    for byte in range(256):
        left = byte
        for _ in range(8):
            left = left >> 1 ^ (0xEDB88320 if left & 1 else 0)
        rows[0, byte] = left
    for row in range(1, 8):
        rows[row] = rows[0][rows[row - 1] & np.uint64(255)] ^ rows[row - 1] >> np.uint64(8)
    return rows


# numba takes these for constants; an unsigned number beside a signed one would become a float.
_CRC = _tables()
_BYTE, _FULL = np.uint64(255), np.uint64(0xFFFFFFFF)
_8, _16, _24, _32, _40, _48, _56 = (np.uint64(bits) for bits in range(8, 57, 8))


@compiled
def crc32(raw: Bytes, start: int, end: int) -> Any:  # noqa: ANN401 - unsigned, 64 bits
    """As zlib's."""
    found, at = _FULL, np.uint64(start)
    for _ in range((end - start) >> 3):
        word = np.uint64(raw[at]) | np.uint64(raw[at + np.uint64(1)]) << _8
        word |= np.uint64(raw[at + np.uint64(2)]) << _16 | np.uint64(raw[at + np.uint64(3)]) << _24
        word |= np.uint64(raw[at + np.uint64(4)]) << _32 | np.uint64(raw[at + np.uint64(5)]) << _40
        word |= np.uint64(raw[at + np.uint64(6)]) << _48 | np.uint64(raw[at + np.uint64(7)]) << _56
        word ^= found
        found = _CRC[7, word & _BYTE] ^ _CRC[6, word >> _8 & _BYTE]
        found ^= _CRC[5, word >> _16 & _BYTE] ^ _CRC[4, word >> _24 & _BYTE]
        found ^= _CRC[3, word >> _32 & _BYTE] ^ _CRC[2, word >> _40 & _BYTE]
        found ^= _CRC[1, word >> _48 & _BYTE] ^ _CRC[0, word >> _56]
        at += np.uint64(8)
    for _ in range((end - start) & 7):
        found = _CRC[0, (found ^ np.uint64(raw[at])) & _BYTE] ^ found >> _8
        at += np.uint64(1)
    return found ^ _FULL


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Entry)
decode = _DECODER.decode
"""The record in a frame's bytes; raises msgspec.MsgspecError."""
