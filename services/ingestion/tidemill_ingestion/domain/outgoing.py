"""A record on its way to a topic."""

from collections.abc import Sequence
from dataclasses import dataclass

_FRAME_BYTES = 64


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What a producer sends; `timestamp_ms` None lets the client write the time of sending."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    timestamp_ms: int | None = None

    def size(self) -> int:
        """About how many bytes of memory and wire the record takes."""
        headers = sum(len(name) + len(value or b"") for name, value in self.headers)
        return _FRAME_BYTES + len(self.key or b"") + len(self.value or b"") + headers
