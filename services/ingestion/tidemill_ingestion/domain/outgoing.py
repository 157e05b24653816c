"""A record on its way to a topic."""

from collections.abc import Sequence

import msgspec

from tidemill_ingestion.domain.framing import frame

_FRAME_BYTES = 64


class Outgoing(msgspec.Struct, frozen=True):
    """What a producer sends; `timestamp_ms` None lets the client write the time of sending."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_ms: int | None = None

    def size(self) -> int:
        """About how many bytes of memory and wire the record takes."""
        size = _FRAME_BYTES + len(self.key or b"") + len(self.value or b"")
        return size + sum([len(name) + len(value or b"") for name, value in self.headers])

    def framed(self) -> "Framed":
        """The same as bytes."""
        key_bytes = -1 if self.key is None else len(self.key)
        body = frame(self.key, self.value, self.headers)
        return Framed(self.topic, self.partition, key_bytes, body, self.timestamp_ms)


class Framed(msgspec.Struct, frozen=True):
    """A record whose bytes, from its key on, are made already; of the key so many (-1: it has none)."""

    topic: str
    partition: int
    key_bytes: int
    body: bytes
    timestamp_ms: int | None = None

    def size(self) -> int:
        """About how many bytes of memory and wire the record takes."""
        return _FRAME_BYTES + len(self.body)

    def framed(self) -> "Framed":
        """Itself."""
        return self


Sendable = Outgoing | Framed
