"""Which events of the log are kept from models: those in windows of a stream that broke a declared bound."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from tidemill_contracts.events import QualityBreached

Range = tuple[int, int]
Ranges = dict[str, dict[str, list[Range]]]
"""`events.<source>` to partition to dense numbers, both ends inclusive, ascending and apart."""


@dataclass(frozen=True)
class Quarantine:
    """Ranges of dense numbers by source; empty for none."""

    ranges: Ranges = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.ranges)

    def holds(self, source: str, partition: int | str, seq: int) -> bool:
        """Whether an event lies in a quarantined range."""
        found = self.ranges.get(f"events.{source}", {}).get(str(partition), [])
        at = bisect_right(found, (seq, 2**63)) - 1
        return at >= 0 and seq <= found[at][1]

    def taints(self, sources: Mapping[str, str], positions: Mapping[str, Mapping[str, int]]) -> bool:
        """Whether the newest event that a vector reflects is quarantined: views' `sources` and their `positions`."""
        return any(
            self.holds(sources[view], partition, seq)
            for view, reached in positions.items()
            if view in sources
            for partition, seq in reached.items()
        )

    def name(self) -> str:
        """A digest that names the set."""
        return hashlib.sha256(json.dumps(self.ranges, sort_keys=True).encode()).hexdigest()


def quarantine(
    breaches: Iterable[QualityBreached], released: frozenset[UUID], sources: frozenset[str], until_us: int
) -> Quarantine:
    """What is quarantined of these sources by windows that had ended by `until_us` and that nobody has released."""
    kept: dict[str, dict[str, set[Range]]] = {}
    for each in breaches:
        if each.source in sources and each.window_us[1] <= until_us and each.quarantine_id not in released:
            places = kept.setdefault(f"events.{each.source}", {}).setdefault(str(each.partition), set())
            places.update(each.ranges)
    merged = {
        name: {partition: found for partition, ranges in sorted(places.items()) if (found := _merged(ranges))}
        for name, places in sorted(kept.items())
    }
    return Quarantine({name: places for name, places in merged.items() if places})


def _merged(ranges: Iterable[Range]) -> list[Range]:
    out: list[Range] = []
    for first, last in sorted(ranges):
        if out and first <= out[-1][1] + 1:
            out[-1] = (out[-1][0], max(out[-1][1], last))
        else:
            out.append((first, last))
    return out
