"""Records that no service of ours writes, for every topic that one of ours reads."""

from itertools import cycle

from aiokafka.admin import AIOKafkaAdminClient

from tidemill_contracts.events import EVENTS
from tidemill_runtime.settings import ServiceSettings
from tidemill_testkit.topics import NotText, Sent, write_batch

_GOOD = [
    ("ce_specversion", b"1.0"), ("ce_id", b"garbage"), ("ce_source", b"/garbage"), ("ce_time", b"2026-01-01T00:00:00Z"),
    ("content-type", b"application/json"),
]  # fmt: skip
KINDS: dict[str, Sent] = {
    "bytes": (b"\xff\x00key", b"\x00\xff\xfe{", []),
    "nothing": (b"", b"", []),
    "a deletion of what is not there": (b"no such key", None, []),
    "headers that are no text": (b"k", b"{}", [("ce_id", b"\xff\xfe"), ("tm_seq", b"\xff")]),
    "an event of nobody's": (b"k", b'{"a": 1}', [*_GOOD, ("ce_type", b"com.example.other.v1")]),
    "no JSON": (b"k", b'{"a": NaN, "a": ', [*_GOOD, ("ce_type", b"com.example.other.v1")]),
    "numbers that are none": (b"k", b"{}", [*_GOOD, ("ce_type", b"x"), ("tm_seq", b"1e9"), ("tm_origin", b"0:x:0")]),
    "a deep body": (b"k", b"[" * 100_000, [*_GOOD, ("ce_type", b"com.example.other.v1")]),
    "repeated headers": (b"k", b"{}", [*_GOOD, *_GOOD, ("ce_type", b"x"), ("ce_type", b"y")]),
}
# What stands behind it in its batch cannot be read either, so it comes alone.
ALONE: Sent = (b"k", b"{}", [(NotText("x"), b"1")])


BODIES = b"{}", b'{"pipeline": 5, "epoch": "x", "at_us": null, "spec": [], "cause": {"kind": 1}}', b"[1]"
"""Nothing, fields of other types, no object."""


def _broken_events(first: int) -> list[Sent]:
    """Every event of ours with one of the bodies, in turn: where most of what comes is garbage, a partition stops."""
    bodies = cycle(BODIES[first % len(BODIES) :] + BODIES[: first % len(BODIES)])
    return [(b"k", body, [*_GOOD, ("ce_type", kind.encode())]) for kind, body in zip(EVENTS, bodies, strict=False)]


async def poison(settings: ServiceSettings) -> dict[str, int]:
    """Write all of it to each partition of every topic; returns the number of partitions by topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        names = [name for name in await admin.list_topics() if name.startswith(f"{settings.prefix}.")]
        counts = {found["topic"]: len(found["partitions"]) for found in await admin.describe_topics(names)}
    finally:
        await admin.close()
    for first, (topic, count) in enumerate(sorted(counts.items())):
        for partition in range(count):
            await write_batch(settings, topic, [*KINDS.values(), *_broken_events(first)], partition=partition)
            await write_batch(settings, topic, [ALONE], partition=partition)
    return counts
