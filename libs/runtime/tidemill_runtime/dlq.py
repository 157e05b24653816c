"""Records that can never be processed: kept with their bytes and the reason, and only as long as they are few."""

from collections import deque
from collections.abc import Iterable
from importlib.metadata import version
from itertools import repeat

from aiokafka import ConsumerRecord

from tidemill_contracts.topics import dead_letters
from tidemill_runtime.errors import Stalled
from tidemill_runtime.kafka import MAX_REQUEST_BYTES

MAX_TEXT = 1000
MAXIMUM_BYTES = MAX_REQUEST_BYTES - 50_000
"""Of keys, values and headers; the rest is for what a record and its batch need beside them."""
DeadLetterRecord = tuple[str, bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Topic, key, value, headers: what a producer's `send` takes."""


def dead_letter(  # noqa: PLR0913 - each a header of the record, all by name
    record: ConsumerRecord,
    *,
    group: str,
    reason: str,
    error: str,
    attempts: int = 1,
    schema_id: str | None = None,
    code_version: str | None = None,
) -> DeadLetterRecord:
    """The dead letter of a record: its raw key, value and headers, and `tm_dlq_*` headers that say what happened.

    A broker takes it: a record with neither key nor value gets an empty value, and one that its context makes too large
    loses its bytes, which stay where `tm_dlq_topic`, `tm_dlq_partition` and `tm_dlq_offset` point to.

    The id of the letter follows from where the record was, so a repeat after a crash is recognisable. `reason` is a
    short word for counting (`schema`, `unknown_source`, `conflict`), `error` a sentence.
    """
    facts = {
        "id": f"{record.topic}/{record.partition}/{record.offset}",
        "topic": record.topic,
        "partition": str(record.partition),
        "offset": str(record.offset),
        "timestamp_ms": str(record.timestamp),
        "group": group,
        "reason": reason,
        "error": error[:MAX_TEXT],
        "attempts": str(attempts),
        "schema_id": schema_id or "",
        "code_version": code_version or version("tidemill-runtime"),
    }
    headers = [*_own(record.headers), *((f"tm_dlq_{name}", text.encode()) for name, text in facts.items())]
    size = len(record.key or b"") + len(record.value or b"") + sum(len(n) + len(v or b"") for n, v in headers)
    if size > MAXIMUM_BYTES:
        about = [(name, value) for name, value in headers if name.startswith("tm_dlq_")]
        return dead_letters(record.topic), None, b"", [*about, ("tm_dlq_cut", b"%d" % size)]
    value = b"" if record.key is None and record.value is None else record.value
    return dead_letters(record.topic), record.key, value, headers


def _own(headers: Iterable[tuple[str, bytes]]) -> Iterable[tuple[str, bytes]]:
    """The record's headers without those of an earlier burial: it may have been replayed from the dead letters."""
    return ((name, value) for name, value in headers if not name.startswith("tm_dlq_"))


class DeadLetterLimiter:
    """Stops a partition when dead letters are no longer exceptions: by share of the last records, or by run length.

    `share` of the last `window` records (judged once `minimum` were seen), `run_length` records in a row.
    """

    def __init__(self, share: float = 0.5, run_length: int = 100, *, window: int = 1000, minimum: int = 200) -> None:
        self._share, self._run_length, self._minimum = share, run_length, minimum
        self._recent: deque[bool] = deque(maxlen=window)
        self._window = window
        self._dead = self._run = 0

    def good(self, count: int = 1) -> None:
        """So many records were processed."""
        if not self._dead:
            self._recent.extend(repeat(object=False, times=min(count, self._window)))
            self._run = 0 if count else self._run
            return
        for _ in range(count):
            self._note(dead=False)

    def dead(self) -> None:
        """A record goes to the dead letters; raises Stalled when that is one too many."""
        self._note(dead=True)
        if self._run > self._run_length:
            raise Stalled(f"more than {self._run_length} records in a row cannot be processed")
        if len(self._recent) >= self._minimum and self._dead > self._share * len(self._recent):
            raise Stalled(f"{self._dead} of the last {len(self._recent)} records cannot be processed")

    def _note(self, *, dead: bool) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._dead -= self._recent[0]
        self._recent.append(dead)
        self._dead += dead
        self._run = self._run + 1 if dead else 0
