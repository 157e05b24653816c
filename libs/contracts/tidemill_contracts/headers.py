"""The headers of a record as Kafka writes them: once for many records that have the same, instead of once for each.

https://kafka.apache.org/documentation/#record: each name and each value stands behind its length, a zigzag varint.
"""

from tidemill_contracts.envelope import Headers

_SEVEN_BITS, _MORE = 0x7F, 0x80


def varint(number: int) -> bytes:
    """A length or a place, not negative, as Kafka writes it."""
    return _VARINTS[number] if number < len(_VARINTS) else _varint(number)


def packed_header(name: str, value: bytes) -> bytes:
    """One header."""
    raw = name.encode()
    return b"".join((varint(len(raw)), raw, varint(len(value)), value))


def packed_headers(headers: Headers) -> bytes:
    """Their number, below 64, and the headers."""
    return b"".join((varint(len(headers)), *(packed_header(name, value) for name, value in headers)))


def unpacked_headers(raw: bytes) -> Headers:
    """What `packed_headers` was given."""
    found: Headers = []
    number, at = _read(raw, 0)
    for _ in range(number):
        size, at = _read(raw, at)
        name, at = raw[at : at + size].decode(), at + size
        size, at = _read(raw, at)
        found.append((name, raw[at : at + size]))
        at += size
    return found


def _read(raw: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and the place behind it."""
    found = shift = 0
    while True:
        byte = raw[at]
        found, shift, at = found | (byte & _SEVEN_BITS) << shift, shift + 7, at + 1
        if byte <= _SEVEN_BITS:
            return found >> 1, at


def _varint(number: int) -> bytes:
    out, left = bytearray(), number << 1
    while left > _SEVEN_BITS:
        out.append(left & _SEVEN_BITS | _MORE)
        left >>= 7
    out.append(left)
    return bytes(out)


_VARINTS = [_varint(number) for number in range(4096)]
