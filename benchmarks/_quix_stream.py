"""Runs inside the peer's own environment: Quix Streams over the first events of the topic that the service read.

Events per second by the processor time of the thread that works, without what its Kafka client does in others.
"""

import json
import sys
import time
from datetime import datetime, timedelta

from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

FIELDS = ("price", "size", "spread")
FUNCTIONS = {"count": Count, "sum": Sum, "mean": Mean, "min": Min, "max": Max}
WINDOWS = {"5m": (300, 60), "1h": (3600, 300), "24h": (86_400, 3600), "7d": (604_800, 21_600)}
GRACE = timedelta(minutes=1)


def event_ms(_value: object, headers: list[tuple[str, bytes]] | None, _ms: float, _kind: object) -> int:
    """The event's own time."""
    return int(1000 * datetime.fromisoformat(dict(headers or [])["ce_time"].decode()).timestamp())


def main() -> None:
    """Read so many events, emit every update of every window, say how fast."""
    broker, topic, folder, kind, count = sys.argv[1:]
    app = Application(
        broker_address=broker, consumer_group=f"peer-{kind}", auto_offset_reset="earliest", state_dir=folder,
        use_changelog_topics=False, loglevel="ERROR",
    )  # fmt: skip
    source = app.topic(topic, value_deserializer="json", key_deserializer="str", timestamp_extractor=event_ms)
    frame, ticks = app.dataframe(source), list[float]()

    def tick(value: object) -> object:
        ticks.append(time.thread_time())
        if len(ticks) > int(count):
            app.stop()
        return value

    frame = frame.apply(tick)
    if kind == "tumbling":
        frame.tumbling_window(timedelta(minutes=1), grace_ms=GRACE).agg(n=Count(), total=Sum("price")).current()
    else:
        operations = {f"{name}_{made}": function(name) for name in FIELDS for made, function in FUNCTIONS.items()}
        for length, step in WINDOWS.values():
            frame.hopping_window(timedelta(seconds=length), timedelta(seconds=step), grace_ms=GRACE).agg(
                **operations
            ).current()
    app.run(timeout=60.0, collect=False)  # its own count is one of outputs: of a hopping window many for each event
    sys.stdout.write(json.dumps((len(ticks) - 1) / (ticks[-1] - ticks[0])) + "\n")


if __name__ == "__main__":
    main()
