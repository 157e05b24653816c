"""The heads of calls: HPACK by the `hpack` package, RFC 9113's rules for them, and what gRPC says in them.

A client sends the same head again and again, and from the second time on as indices into a table alone. Such a block
means the same until another block changes the table: it is looked at once.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import hpack

from tidemill_runtime.rpc.frames import ConnectionFault, ErrorCode, StreamFault
from tidemill_runtime.rpc.status import Code, StatusError

MOST_KNOWN = 64
"""Blocks of one connection that are remembered."""
_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_NEEDED = frozenset({b":method", b":scheme", b":path"})
_OF_CONNECTIONS = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_FIRST_INDEX, _LONG_INDEX = 0x81, 0xFF


class Head(NamedTuple):
    """What a call's head says. `status`: of HTTP, where it is no call of gRPC; `error`: why it is refused."""

    path: str
    metadata: Mapping[str, str]
    timeout_s: float | None = None
    encoding: str = "identity"
    length: int | None = None
    status: int = 200
    error: StatusError | None = None


class Heads:
    """The heads of one connection, in the order of their coming."""

    __slots__ = ("_decoder", "_known")

    def __init__(self, most: int) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=most)
        self._known: dict[bytes, Head] = {}

    def read(self, block: bytes) -> Head:
        """Raises ConnectionFault, and StreamFault for a malformed head."""
        found = self._known.get(block)
        if found is None:
            fields = self._decode(block)
            found = _head(fields)
            if _is_indexed(block) and len(self._known) < MOST_KNOWN:
                self._known[block] = found
        return found

    def skip(self, block: bytes) -> None:
        """Trailers say nothing here, but the table must follow; raises as `read`."""
        if any(name.startswith(b":") for name, _ in self._decode(block)):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)

    def _decode(self, block: bytes) -> Sequence[tuple[bytes, bytes]]:
        if not _is_indexed(block):
            self._known.clear()  # what follows may mean something else
        try:
            found = cast("Sequence[tuple[bytes, bytes]]", self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the head of a call is too large") from None
        except (hpack.HPACKError, UnicodeDecodeError, IndexError, ValueError):
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, "a header block cannot be read") from None
        return found


def _is_indexed(block: bytes) -> bool:
    """Whether it is one-byte indices alone: then it does not change the table."""
    return bool(block) and min(block) >= _FIRST_INDEX and max(block) < _LONG_INDEX


def _head(fields: Sequence[tuple[bytes, bytes]]) -> Head:
    pseudo, metadata = dict[bytes, bytes](), dict[str, str]()
    for name, value in fields:
        if name.startswith(b":"):
            if metadata or name in pseudo or name not in _PSEUDO:
                raise StreamFault(ErrorCode.PROTOCOL_ERROR)
            pseudo[name] = value
        elif not _NAME.fullmatch(name) or name in _OF_CONNECTIONS or (name == b"te" and value != b"trailers"):
            raise StreamFault(ErrorCode.PROTOCOL_ERROR)
        else:
            metadata.setdefault(name.decode(), value.decode("latin-1"))
    if not pseudo.keys() >= _NEEDED or not pseudo[b":path"]:
        raise StreamFault(ErrorCode.PROTOCOL_ERROR)
    return _call(pseudo, metadata)


def _call(pseudo: Mapping[bytes, bytes], metadata: Mapping[str, str]) -> Head:
    path, length = pseudo[b":path"].decode("latin-1"), metadata.get("content-length")
    if length is not None and not (length.isascii() and length.isdecimal() and len(length) <= _DIGITS):
        raise StreamFault(ErrorCode.PROTOCOL_ERROR)
    status = 200
    if pseudo[b":method"] != b"POST":
        status = 405
    elif not metadata.get("content-type", "").startswith("application/grpc"):
        status = 415
    encoding, error = metadata.get("grpc-encoding", "identity"), None
    timeout, raw = None, metadata.get("grpc-timeout")
    if raw is not None:
        match = _TIMEOUT.fullmatch(raw.encode("latin-1"))
        if match is None:
            error = StatusError(Code.INTERNAL, "grpc-timeout is at most eight digits and a unit")
        else:
            timeout = int(match[1]) * _UNITS[match[2]]
    if encoding not in {"identity", "gzip", "deflate"}:
        error = StatusError(Code.UNIMPLEMENTED, "the encoding of messages is gzip, deflate or identity")
    return Head(path, metadata, timeout, encoding, None if length is None else int(length), status, error)


_DIGITS = 12
