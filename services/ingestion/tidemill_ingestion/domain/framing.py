"""Records as Kafka writes them, from the key on: compared and passed on as bytes, they need not be taken apart.

The format: https://kafka.apache.org/documentation/#record
"""

from collections.abc import Sequence
from typing import NamedTuple

from tidemill_contracts.headers import varint

_NULL = b"\x01"


class Body(NamedTuple):
    """A record's bytes behind the length of its key, and where the number of its headers stands, one byte."""

    data: bytes
    cut: int

    def with_headers(self, count: int, headers: bytes) -> bytes:
        """The bytes with `count` more headers; there are fewer than 64 in all."""
        data, cut = self
        return b"".join((data[:cut], varint((data[cut] >> 1) + count), data[cut + 1 :], headers))


def headers_in(data: bytes, at: int, count: int, end: int) -> dict[bytes, bytes | None]:
    """Headers by name, the last of each; raises IndexError or ValueError for what is none, or ends elsewhere."""
    found = dict[bytes, bytes | None]()
    for _ in range(count):
        byte = data[at]  # nearly all lengths have one
        size, at = (byte >> 1, at + 1) if byte < 0x80 else _read(data, at)  # noqa: PLR2004 - seven bits
        name, at = data[at : at + size], at + size
        byte = data[at]
        size, at = (byte >> 1, at + 1) if byte < 0x80 else _read(data, at)  # noqa: PLR2004 - seven bits
        if not name.isascii():
            name.decode()  # Kafka's names are UTF-8, though brokers do not check that
        found[name], at = (data[at : at + size], at + size) if byte != 1 else (None, at)
    if at != end:
        raise ValueError("headers end elsewhere")
    return found


def _read(data: bytes, at: int) -> tuple[int, int]:
    byte = data[at]
    value, shift = byte & 0x7F, 7
    while byte > 0x7F:  # noqa: PLR2004 - seven bits
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
    return (value >> 1) ^ -(value & 1), at + 1


def frame(key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """A record's bytes behind the length of its key."""
    return b"".join((key or b"", _part(value), varint(len(headers)), *[_header(*each) for each in headers]))


def _part(value: bytes | None) -> bytes:
    return _NULL if value is None else varint(len(value)) + value


def _header(name: str, value: bytes | None) -> bytes:
    text = name.encode()
    return varint(len(text)) + text + _part(value)
