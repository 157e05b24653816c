"""The archive of events: a Delta Lake table per source that ingestion appends to and backfills read."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tidemill_runtime.errors import Configuration, Later

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("partition", "seq", "offset", "raw_offset", "id", "event_us", "ingest_us", "key", "body", "outcome")
"""`offset` is that of events.<source> or late.<source>, `raw_offset` that of raw.<source>; late events have no `seq`.

`body` is the event's data as canonical JSON, `ingest_us` when its raw record was written (microseconds, UTC)."""


def archive_path(artifacts: str, source: str) -> str:
    """Where the archive of a source is, below a directory or an s3:// URL."""
    return f"{artifacts.rstrip('/')}/archive/events/{source}"


def read_events(
    path: str, positions_below: Mapping[int, int] | Mapping[str, int], *, columns: Sequence[str] = COLUMNS
) -> "pa.Table":
    """The applied events of each partition with dense numbers below `positions_below`, sorted by (partition, seq).

    Partitions that are not named are left out. Raises Later when the archive does not hold all of them (yet), and
    Configuration without the package deltalake. Blocks: call it in a thread.
    """
    try:
        from deltalake import DeltaTable  # noqa: PLC0415 - only services that read the archive carry it
        from deltalake.exceptions import TableNotFoundError  # noqa: PLC0415 - see above
        from pyarrow import compute as pc  # noqa: PLC0415 - see above
    except ImportError as error:
        raise Configuration("the archive needs the packages deltalake and pyarrow") from error
    below = {int(partition): end for partition, end in positions_below.items() if end > 0}
    wanted = list(dict.fromkeys(["partition", "seq", *columns]))
    try:
        dataset = DeltaTable(path).to_pyarrow_dataset()
    except TableNotFoundError as error:
        raise Later(f"there is no archive at {path} yet") from error
    chosen = pc.scalar(False)  # noqa: FBT003 - an expression, not a flag
    for partition, end in below.items():
        chosen |= (pc.field("partition") == partition) & (pc.field("seq") < end)
    found = dataset.to_table(columns=wanted, filter=chosen & (pc.field("outcome") == "applied"))
    if found.num_rows != sum(below.values()):
        raise Later(f"the archive at {path} holds {found.num_rows} of {sum(below.values())} events: flush it first")
    return found.sort_by([("partition", "ascending"), ("seq", "ascending")]).select(list(columns))
