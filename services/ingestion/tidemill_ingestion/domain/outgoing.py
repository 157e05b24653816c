"""A record on its way to a topic."""

from collections.abc import Sequence

import msgspec

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
