"""Runs inside the peer's own environment: the four hopping windows, every update emitted, rates on standard output.

Rates are by processor time of the thread that works, without what its Kafka client does in others.
"""

import json
import sys
import time
from datetime import timedelta
from itertools import pairwise

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

FIELDS = ("price", "size", "spread")
WINDOWS = (
    (timedelta(minutes=5), timedelta(minutes=1)),
    (timedelta(hours=1), timedelta(minutes=5)),
    (timedelta(hours=24), timedelta(hours=1)),
    (timedelta(days=7), timedelta(hours=6)),
)
EVERY = 250


def main() -> None:
    """Read everything, then say how fast and what the longest window counted."""
    broker, topic, folder = sys.argv[1:]
    app = Application(
        broker_address=broker, consumer_group="peer", auto_offset_reset="earliest", state_dir=folder,
        use_changelog_topics=False, loglevel="ERROR",
    )  # fmt: skip
    frame = app.dataframe(app.topic(topic, value_deserializer="json", key_deserializer="str"))
    functions = {"count": Count, "sum": Sum, "mean": Mean, "min": Min, "max": Max}
    operations = {f"{name}_{made}": function(name) for name in FIELDS for made, function in functions.items()}
    ticks: list[float] = [time.thread_time()]
    counts: dict[str, int] = {}
    seen = [0]

    def tick(value: object) -> object:
        if seen[0] == 0:
            ticks[0] = time.thread_time()
        seen[0] += 1
        if seen[0] % EVERY == 0:
            ticks.append(time.thread_time())
        return value

    def note(value: dict[str, int], key: str, *_: object) -> None:
        counts[key] = max(counts.get(key, 0), value["price_count"])

    frame = frame.apply(tick)
    for length, step in WINDOWS:
        window = frame.hopping_window(length, step, grace_ms=timedelta(minutes=1)).agg(**operations).current()
        if length == WINDOWS[-1][0]:
            window.update(note, metadata=True)
    app.run(timeout=20.0, collect=False)
    rates = [EVERY / (after - before) for before, after in pairwise(ticks)]
    overall = EVERY * len(rates) / (ticks[-1] - ticks[0])
    sys.stdout.write(json.dumps({"events": seen[0], "counts": counts, "best": max(rates), "overall": overall}) + "\n")


if __name__ == "__main__":
    main()
