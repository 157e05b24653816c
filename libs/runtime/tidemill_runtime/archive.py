"""The archive of events: a Delta Lake table per source that ingestion appends to and backfills read.

Everything here blocks: call it in a thread. It raises Later when the archive is not there or does not hold what is
asked for (yet), and Configuration without the package deltalake.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tidemill_runtime.errors import Configuration, Later

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("partition", "seq", "offset", "raw_offset", "id", "event_us", "ingest_us", "key", "body", "outcome")
"""`offset` is that of events.<source> or late.<source>, `raw_offset` that of raw.<source>; late events have no `seq`.

`body` is the event's data as canonical JSON, `ingest_us` when its raw record was written (microseconds, UTC)."""
BAND_ROWS = 131_072
Positions = Mapping[int, int] | Mapping[str, int]
"""By partition the dense number below which events are meant."""


def archive_path(artifacts: str, source: str) -> str:
    """Where the archive of a source is, below a directory or an s3:// URL."""
    return f"{artifacts.rstrip('/')}/archive/events/{source}"


def read_events(path: str, positions_below: Positions, *, columns: Sequence[str] = COLUMNS) -> "pa.Table":
    """The applied events of each partition with dense numbers below `positions_below`, sorted by (partition, seq).

    Partitions that are not named are left out.
    """
    below = _below(positions_below)
    found = Bands(path, columns).read(below)
    _is_whole(path, found.num_rows, sum(below.values()))
    return found.select(list(columns))


def read_bands(
    path: str, positions_below: Positions, *, columns: Sequence[str] = COLUMNS, rows: int = BAND_ROWS
) -> Iterator["pa.Table"]:
    """What `read_events` gives, in tables of about `rows` rows, so that memory does not depend on how many there are.

    Each table holds the same range of numbers of every partition, sorted by (partition, seq); numbers rise from table
    to table.
    """
    below, bands = _below(positions_below), Bands(path, columns)
    step = max(1, rows // max(1, len(below)))
    for low in range(0, max(below.values(), default=0), step):
        part = {p: (low, min(end, low + step)) for p, end in below.items() if end > low}
        found = bands.read_between(part)
        _is_whole(path, found.num_rows, sum(high - start for start, high in part.values()))
        yield found.select(list(columns))


def archived_positions(path: str) -> dict[int, int]:
    """By partition the number after the highest applied one that the archive holds now; empty without an archive."""
    from pyarrow import compute as pc  # noqa: PLC0415 - only services that read the archive carry it

    try:
        bands = Bands(path, ("partition", "seq"))
    except Later:
        return {}
    highest: dict[int, int] = {}
    for batch in bands.dataset.to_batches(columns=["partition", "seq"], filter=pc.field("seq").is_valid()):
        for group in _highest(batch):
            highest[group["partition"]] = max(highest.get(group["partition"], -1), group["seq_max"])
    return {partition: highest[partition] + 1 for partition in sorted(highest)}


def _highest(batch: "pa.RecordBatch") -> list[dict[str, int]]:
    import pyarrow as pa  # noqa: PLC0415 - see archived_positions

    groups: list[dict[str, int]] = (
        pa.Table.from_batches([batch]).group_by("partition").aggregate([("seq", "max")]).to_pylist()
    )
    return groups


class Bands:
    """One state of an archive, whatever is appended meanwhile: applied events by ranges of numbers."""

    def __init__(self, path: str, columns: Sequence[str]) -> None:
        self.table = open_archive(path)
        self.dataset: Any = self.table.to_pyarrow_dataset()
        self._wanted = list(dict.fromkeys(["partition", "seq", *columns]))

    def read(self, below: Mapping[int, int]) -> "pa.Table":
        """Events with numbers below."""
        return self.read_between({partition: (0, end) for partition, end in below.items()})

    def read_between(self, ranges: Mapping[int, tuple[int, int]]) -> "pa.Table":
        """Events of each partition with numbers from the first up to, not including, the second; sorted."""
        from pyarrow import compute as pc  # noqa: PLC0415 - see archived_positions

        chosen = pc.scalar(False)  # noqa: FBT003 - an expression, not a flag
        for partition, (low, high) in ranges.items():
            chosen |= (pc.field("partition") == partition) & (pc.field("seq") >= low) & (pc.field("seq") < high)
        found = self.dataset.to_table(columns=self._wanted, filter=chosen & (pc.field("outcome") == "applied"))
        return found.sort_by([("partition", "ascending"), ("seq", "ascending")])


def open_archive(path: str) -> Any:  # noqa: ANN401 - a package that is optional here
    """The deltalake.DeltaTable of an archive as it is now."""
    try:
        from deltalake import DeltaTable  # noqa: PLC0415 - see archived_positions
        from deltalake.exceptions import TableNotFoundError  # noqa: PLC0415 - see archived_positions
    except ImportError as error:
        raise Configuration("the archive needs the packages deltalake and pyarrow") from error
    try:
        return DeltaTable(path)
    except TableNotFoundError as error:
        raise Later(f"there is no archive at {path} yet") from error


def _below(positions: Positions) -> dict[int, int]:
    return {int(partition): end for partition, end in positions.items() if end > 0}


def _is_whole(path: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise Later(f"the archive at {path} holds {found} of {wanted} events: flush it first")
