"""gRPC's status codes, and the header blocks of answers, which use no table that a peer would have to keep."""

from enum import IntEnum
from urllib.parse import quote_from_bytes

LONGEST_TEXT = 1024
"""Characters of a status' text: some clients take 8 KiB of headers and no more."""
_SAFE = " !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~"
_SEVEN, _EIGHT = 0x7F, 0x80


class Code(IntEnum):
    """https://grpc.github.io/grpc/core/md_doc_statuscodes.html."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(Exception):
    """How a call ends that is not answered."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


def literal(name: bytes, value: bytes) -> bytes:
    """A header that no table takes (RFC 7541, 6.2.2)."""
    return b"\0" + _text(name) + _text(value)


def _text(raw: bytes) -> bytes:
    size = len(raw)
    if size < _SEVEN:
        return bytes((size,)) + raw
    found, size = bytearray((_SEVEN,)), size - _SEVEN
    while size >= _EIGHT:
        found.append(size % _EIGHT + _EIGHT)
        size //= _EIGHT
    found.append(size)
    return bytes(found) + raw


def trailers(code: Code, text: str = "") -> bytes:
    """The block that ends an answer."""
    if code is Code.OK:
        return GOOD
    said = quote_from_bytes(text[:LONGEST_TEXT].encode("utf-8", "replace"), safe=_SAFE).encode()
    return literal(b"grpc-status", b"%d" % code) + literal(b"grpc-message", said)


def plain(status: int, text: str) -> bytes:
    """The block of an answer to what is no call: HTTP alone."""
    named = literal(b"content-type", b"text/plain") + literal(b"grpc-message", text.encode())
    code = Code.UNIMPLEMENTED if status == _NO_METHOD else Code.INTERNAL
    return literal(b":status", b"%d" % status) + literal(b"grpc-status", b"%d" % code) + named


_NO_METHOD = 404
HEADERS_BLOCK = b"\x88" + literal(b"content-type", b"application/grpc") + literal(
    b"grpc-accept-encoding", b"identity, deflate, gzip"
)  # fmt: skip
GOOD = literal(b"grpc-status", b"0")
