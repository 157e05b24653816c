"""Where the time between two hops of the path goes, from the services' own histograms."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import httpx

from tidemill.stack import Endpoints

_LINE = re.compile(r"(?P<name>\w+)_bucket\{(?P<labels>[^}]*)\} (?P<count>[0-9.e+]+)")
_SHARES = (0.5, 0.99)


class Hop(NamedTuple):
    """A histogram of a service: what is measured, in which family, with which words and without which in its labels."""

    what: str
    service: str
    family: str
    words: tuple[str, ...] = ()
    without: str = "\n"

    def matches(self, labels: str) -> bool:
        """Whether a line of the exposition belongs to it."""
        return self.without not in labels and all(word in labels for word in self.words)


HOPS = (
    Hop("accepted to polled by the operator", "ingestion", "tidemill_record_age_seconds", (".raw.",)),
    Hop("operator's batch: decided, stored, written", "ingestion", "tidemill_batch_seconds", (".ingestion.",)),
    Hop("accepted to polled by the router", "features", "tidemill_record_age_seconds", ("features-router",)),
    Hop("router's batch: routed, written", "features", "tidemill_batch_seconds", ("features-router",)),
    Hop("routed to polled by the aggregator", "features", "tidemill_record_age_seconds", (".repartition.",)),
    Hop("aggregator's batch: applied", "features", "tidemill_batch_seconds", ('="tidemill-features',), "router"),
    Hop("told: vectors written and committed", "features", "tidemill_features_tell_seconds"),
    Hop("framed to polled by serving", "serving", "tidemill_record_age_seconds", (".features.",)),
)  # fmt: skip
Buckets = Mapping[Hop, Mapping[float, float]]


async def read(seen: Endpoints) -> Buckets:
    """Cumulative counts by upper bound in seconds, of every hop."""
    found: dict[Hop, dict[float, float]] = {hop: defaultdict(float) for hop in HOPS}
    async with httpx.AsyncClient(timeout=10) as client:
        for service in {hop.service for hop in HOPS}:
            text = (await client.get(f"{seen.services[service].url}/metrics")).text
            for match in _LINE.finditer(text):
                labels = match["labels"]
                bound = float(labels.rpartition('le="')[2].split('"')[0])
                for hop in HOPS:
                    if (hop.service, hop.family) == (service, match["name"]) and hop.matches(labels):
                        found[hop][bound] += float(match["count"])
    return found


def table(before: Buckets, after: Buckets) -> list[str]:
    """A line per hop: how many batches, and below what half and 99 in 100 of them lie (the buckets' upper bounds)."""
    lines = [f"{'hop':<46}{'batches':>9}{'p50 <=':>10}{'p99 <=':>10}"]
    for hop in HOPS:
        counts = {bound: after[hop][bound] - before[hop][bound] for bound in sorted(after[hop])}
        total = max(counts.values(), default=0.0)
        bounds = [next((b for b, n in counts.items() if n >= share * total), 0.0) for share in _SHARES]
        lines.append(f"{hop.what:<46}{total:>9.0f}" + "".join(f"{1000 * bound:>7.1f} ms" for bound in bounds))
    return lines
