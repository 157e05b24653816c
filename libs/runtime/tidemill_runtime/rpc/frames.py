"""HTTP/2 frames as bytes, and what makes one malformed: RFC 9113. Nothing here remembers anything."""

from collections.abc import Iterator
from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD = 9
"""Bytes before a frame's payload."""
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITISED = 0x4, 0x8, 0x20
TABLE_SIZE, ENABLE_PUSH, MOST_STREAMS, INITIAL_WINDOW, MOST_FRAME, MOST_HEADERS = range(1, 7)
DEFAULT_WINDOW, DEFAULT_TABLE, DEFAULT_FRAME = 65_535, 4096, 16_384
LARGEST_WINDOW, LARGEST_FRAME, LAST_STREAM = 2**31 - 1, 2**24 - 1, 2**31 - 1
_NUMBER = 0x7FFFFFFF
_WORD, _SETTING, _PRIORITY, _PING = 4, 6, 5, 8


class ErrorCode(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):  # noqa: N818 - RFC 9113 calls it a connection error; it is the peer's
    """The peer has done what ends the connection."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class StreamFault(Exception):  # noqa: N818 - as above
    """The peer has done what ends one stream."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return b"".join((len(payload).to_bytes(3, "big"), bytes((kind, flags)), stream.to_bytes(4, "big"), payload))


def settings(values: dict[int, int]) -> bytes:
    """A SETTINGS frame."""
    pairs = (key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return frame(SETTINGS, 0, 0, b"".join(pairs))


def window_update(stream: int, size: int) -> bytes:
    """The peer may send so many bytes more; stream 0: over the whole connection."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def reset(stream: int, code: ErrorCode) -> bytes:
    """The end of a stream."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last: int, code: ErrorCode, text: str = "") -> bytes:
    """No stream after `last` will be answered."""
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + text.encode())


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without its padding; raises ConnectionFault."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "no length of padding")
    if payload[0] >= len(payload):
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def unprioritised(flags: int, payload: bytes, stream: int) -> tuple[bytes, bool]:
    """The block of HEADERS without its priority, and whether the stream is said to depend on itself."""
    if not flags & PRIORITISED:
        return payload, False
    if len(payload) < _PRIORITY:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "no room for a priority")
    return payload[_PRIORITY:], _word(payload[:_WORD]) & _NUMBER == stream


def read_priority(payload: bytes, stream: int) -> None:
    """PRIORITY is not heeded but must be one; raises StreamFault."""
    if len(payload) != _PRIORITY:
        raise StreamFault(ErrorCode.FRAME_SIZE_ERROR)
    if _word(payload[:_WORD]) & _NUMBER == stream:
        raise StreamFault(ErrorCode.PROTOCOL_ERROR)


def read_increment(payload: bytes) -> int:
    """Of WINDOW_UPDATE; raises ConnectionFault for another size."""
    return read_word(payload) & _NUMBER


def read_word(payload: bytes) -> int:
    """The only word of a payload; raises ConnectionFault for another size."""
    if len(payload) != _WORD:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "the frame has another size")
    return _word(payload)


def read_ping(payload: bytes) -> bytes:
    """What is to be sent back."""
    if len(payload) != _PING:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a PING has eight bytes")
    return payload


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """The settings in their order, each within its range; raises ConnectionFault."""
    if len(payload) % _SETTING:
        raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "a setting has six bytes")
    for at in range(0, len(payload), _SETTING):
        key, value = int.from_bytes(payload[at : at + 2], "big"), _word(payload[at + 2 : at + _SETTING])
        if key == ENABLE_PUSH and value > 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is 0 or 1")
        if key == INITIAL_WINDOW and value > LARGEST_WINDOW:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large")
        if key == MOST_FRAME and not DEFAULT_FRAME <= value <= LARGEST_FRAME:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE is out of its range")
        yield key, value


def _word(raw: bytes) -> int:
    return int.from_bytes(raw, "big")
