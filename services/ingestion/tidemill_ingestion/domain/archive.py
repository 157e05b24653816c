"""What of the validated topics goes into the archive, each event once however often it was written."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tidemill_ingestion.domain.fields import instant
from tidemill_ingestion.domain.framing import headers_in
from tidemill_ingestion.domain.layout import Layout, Said
from tidemill_ingestion.domain.readings import Columns, Record, columns_of


class Row(NamedTuple):
    """A row of the archive; `partition` is the raw partition, `seq` None for a late event."""

    partition: int
    seq: int | None
    offset: int
    raw_offset: int
    id: str
    event_us: int
    ingest_us: int
    key: str
    body: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Move:
    """A named position from where the table has it (None: nowhere) to where the rows bring it."""

    name: str
    low: int | None
    high: int


@dataclass(slots=True)
class Applied:
    """A reader of one partition of events.<source>: `last` is the highest dense number taken."""

    name: str
    last: int = -1
    offset: int = -1

    def restore(self, positions: dict[str, int]) -> None:
        """Go on after what was committed."""
        self.last, self.offset = positions.get(f"{self.name}/seq", -1), positions.get(self.name, -1)

    def positions(self) -> dict[str, int]:
        """Names and values to commit with the rows."""
        return {self.name: self.offset, f"{self.name}/seq": self.last}

    def take(self, records: Sequence[Record]) -> list[Row]:
        """The rows of new events; timers and what a crash wrote twice give none."""
        rows = []
        for offset, row in _rows(records, "applied"):
            self.offset = offset
            if row is not None and row.seq is not None and row.seq > self.last:
                self.last = row.seq
                rows.append(row)
        return rows


@dataclass(slots=True)
class Late:
    """A reader of late.<source>, whose one partition mixes the raw partitions: each has its highest origin."""

    name: str
    partitions: int
    last: dict[int, int] = field(init=False)
    offset: int = -1

    def __post_init__(self) -> None:
        self.last = dict.fromkeys(range(self.partitions), -1)

    def restore(self, positions: dict[str, int]) -> None:
        """Go on after what was committed."""
        self.offset = positions.get(self.name, -1)
        self.last = {p: positions.get(f"{self.name}/{p}", -1) for p in range(self.partitions)}

    def positions(self) -> dict[str, int]:
        """Names and values to commit with the rows."""
        return {self.name: self.offset} | {f"{self.name}/{p}": last for p, last in self.last.items()}

    def take(self, records: Sequence[Record]) -> list[Row]:
        """The rows of new events."""
        rows = []
        for offset, row in _rows(records, "late"):
            self.offset = offset
            if row is not None and row.raw_offset > self.last.get(row.partition, -1):
                self.last[row.partition] = row.raw_offset
                rows.append(row)
        return rows


Reader = Applied | Late


def _rows(records: Sequence[Record], outcome: str) -> Iterator[tuple[int, Row | None]]:
    """The offset of each record, and its row."""
    columns = columns_of(records)
    if columns is not None:
        yield from _of_columns(columns, outcome)
        return
    for record in records:
        headers = {name.encode(): value for name, value in record.headers}
        yield record.offset, _row((record.offset, record.timestamp), record.key, record.value, _said(headers), outcome)


def _of_columns(columns: Columns, outcome: str) -> Iterator[tuple[int, Row | None]]:
    data, layout = columns.buffer, Layout()
    for offset, at_ms, key, key_end, value, value_end, at, count, end in columns.table.tolist():
        row = None
        if key >= 0 and value >= 0:
            head = data[at:end]
            said = layout.read(head, count) or _with_care(layout, head, count)
            row = _row((offset, at_ms), data[key:key_end], data[value:value_end], said, outcome)
        yield offset, row


def _with_care(layout: Layout, head: bytes, count: int) -> Said | None:
    try:
        said = _said(headers_in(head, 0, count, len(head)))
    except (IndexError, ValueError):
        return None  # as a record without any: its other readers bury it
    if said is not None:
        layout.learn(head, count, said)
    return said


def _said(headers: Mapping[bytes, bytes | None]) -> Said | None:
    """None for timers, and for what somebody else has written."""
    name, time, origin = headers.get(b"ce_id"), headers.get(b"ce_time"), headers.get(b"tm_origin")
    if name is None or time is None or origin is None:
        return None
    return Said(name, time, origin, headers.get(b"tm_seq"))


def _row(
    place: tuple[int, int], key: bytes | None, value: bytes | None, said: Said | None, outcome: str
) -> Row | None:  # fmt: skip
    """The row of a record that ingestion wrote; None for timers, and for what somebody else has written."""
    if said is None or key is None or value is None or (outcome == "applied" and said.seq is None):
        return None
    name, time, origin, seq = said
    try:
        partition, raw_offset, _ = origin.split(b":")
        return Row(
            int(partition), None if seq is None else int(seq), place[0], int(raw_offset), name.decode(),
            instant(time.decode()), place[1] * 1000, key.decode(), value.decode(), outcome,
        )  # fmt: skip
    except ValueError:
        return None  # its other readers bury it
