"""What of the log is kept when there is no more room for all of it, and that each record says so."""

import zlib
from collections.abc import Sequence

from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.frames import Logged, apart

SAMPLED = "tm_sampled"
"""Header of a record that stands for more than itself: the share of answers that was logged when it was written."""
_WHOLE = 2**32


def sampled(entries: Sequence[Logged], share: float, unlogged: dict[str, int]) -> list[Entry]:
    """The records to keep: by their ids, so that a repeat is treated alike; what is left out is counted by pipeline.

    Progress and swaps are always kept: they are few, and the order of the log rests on them.
    """
    kept: list[Entry] = []
    mark = (SAMPLED, f"{share:g}".encode())
    for entry in apart(entries):
        if entry.kind not in {"prediction", "inference", "shadow"}:
            kept.append(entry)
            continue
        identity = next((value for name, value in entry.headers if name == "ce_id"), b"")
        if zlib.crc32(identity) < share * _WHOLE:
            kept.append(Entry(
                entry.kind, entry.pipeline, entry.topic, entry.partition, entry.key, entry.value,
                [*entry.headers, mark], entry.at_us,
            ))  # fmt: skip
        else:
            unlogged[entry.pipeline] = unlogged.get(entry.pipeline, 0) + 1
    return kept
