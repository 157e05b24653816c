"""Dead letters: what they say of themselves, and the record they become when they are put back."""

from dataclasses import dataclass

from tidemill_contracts import dead_letters
from tidemill_ingestion.domain.outgoing import Outgoing

MARK = "tm_dlq_"
REPLAYS = "tm_replays"


@dataclass(frozen=True, slots=True)
class Letter:
    """A record of a dead-letter topic; its `tm_dlq_*` headers say where it was and why it could not be processed."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def fact(self, name: str) -> str:
        """What a `tm_dlq_*` header says, empty when it is missing."""
        return _text(dict(self.headers).get(f"{MARK}{name}"))

    def number(self, name: str) -> int | None:
        """A `tm_dlq_*` header as a whole number, or None."""
        text = self.fact(name)
        return int(text) if text.isascii() and text.isdigit() else None

    def replays(self) -> int:
        """How often the record had been put back before it became this letter."""
        text = _text(dict(self.headers).get(REPLAYS))
        return int(text) if text.isascii() and text.isdigit() else 0

    def replay(self) -> Outgoing | None:
        """The original record for its original partition, or None when the letter does not hold its bytes."""
        partition, origin = self.number("partition"), self.fact("topic")
        if partition is None or not origin or dead_letters(origin) != self.topic or self.fact("cut"):
            return None
        kept = [(name, value) for name, value in self.headers if not name.startswith(MARK) and name != REPLAYS]
        return Outgoing(origin, partition, self.key, self.value, [*kept, (REPLAYS, b"%d" % (self.replays() + 1))])


def _text(raw: bytes | None) -> str:
    return (raw or b"").decode("utf-8", "replace")
