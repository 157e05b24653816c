"""Stored state: changed keys of one view partition as a compressed, content-addressed segment, newest wins.

Segments merge like the digits of a binary counter: a new one swallows its neighbours that are not larger than itself,
so there are logarithmically many and each key is rewritten logarithmically often.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cramjam
import msgspec

VERSION = 1
_LEVEL = 1


class Segment(msgspec.Struct, array_like=True, frozen=True):
    """Keys with their stored bytes; None says that the key was forgotten. `owner` is `view/version/partition`."""

    format: int
    owner: str
    entries: list[tuple[bytes, bytes | None]]


class SegmentRef(NamedTuple):
    """A stored segment; numbers rise with time. `digest` is None where its bytes lie in the table itself."""

    number: int
    size: int
    digest: str | None


@dataclass
class Owner:
    """A process's right to store a partition number, and the segments that are stored for it, by view, oldest first."""

    partition: int
    epoch: int
    generation: int
    known: dict[str, list[SegmentRef]] = field(default_factory=dict)


class Plan(NamedTuple):
    """What to do with a new segment: keep these, merge it over those (oldest first)."""

    keep: Sequence[SegmentRef]
    merge: Sequence[SegmentRef]


def pack(owner: str, entries: Iterable[tuple[bytes, bytes | None]]) -> bytes:
    """A segment as bytes; the same entries give the same bytes."""
    raw = msgspec.msgpack.encode(Segment(VERSION, owner, list(entries)))
    return bytes(cramjam.zstd.compress(raw, level=_LEVEL))


def unpack(raw: bytes, owner: str) -> list[tuple[bytes, bytes | None]]:
    """Entries of a segment; raises ValueError when it is damaged, of another version or somebody else's."""
    try:
        segment = msgspec.msgpack.decode(bytes(cramjam.zstd.decompress(raw)), type=Segment)
    except (cramjam.DecompressionError, msgspec.DecodeError) as error:
        msg = f"a segment of {owner} is damaged"
        raise ValueError(msg) from error
    if (segment.format, segment.owner) != (VERSION, owner):
        msg = f"expected a segment of {owner} in format {VERSION}, found {segment.owner} in format {segment.format}"
        raise ValueError(msg)
    return segment.entries


def merge(parts: Iterable[Iterable[tuple[bytes, bytes | None]]], *, oldest: bool) -> list[tuple[bytes, bytes | None]]:
    """Entries of segments (oldest first) as one, by key; `oldest`: nothing is beneath, so forgotten keys vanish."""
    latest: dict[bytes, bytes | None] = {}
    for part in parts:
        latest.update(part)
    return sorted((key, blob) for key, blob in latest.items() if not (oldest and blob is None))


def plan(known: Sequence[SegmentRef], size: int) -> Plan:
    """Which of the stored segments (oldest first) a new one of `size` bytes is merged with."""
    cut, total = len(known), size
    while cut and known[cut - 1].size <= total:
        cut -= 1
        total += known[cut].size
    return Plan(known[:cut], known[cut:])
