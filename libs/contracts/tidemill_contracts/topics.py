"""Every topic in one place: name, how it is kept, and how many partitions it has."""

from dataclasses import dataclass
from typing import Literal

PREFIX = "tidemill"
VERSION = "v1"
DEFAULT_PARTITIONS = 6

Family = Literal[
    "raw", "events", "late", "future", "repartition", "features", "requests", "predictions", "outcomes",
    "pipelines", "drift", "training", "runs", "versions", "releases", "swaps", "quality", "models", "inferences",
]  # fmt: skip
CONTROL: tuple[Family, ...] = (
    "pipelines", "drift", "training", "runs", "versions", "releases", "swaps", "quality", "models", "inferences",
)  # fmt: skip
_COMPACTED = frozenset({"pipelines", "releases", "features", "models"})

REQUESTS_KEPT_MS = 7 * 86_400_000
"""Requests that came over Kafka: what they were answered stays with the predictions."""
RELEASES_LAG_MS = 7 * 86_400_000
"""So long every decision can be read in order, also from the topics that keep only the newest of each pipeline."""


def topic(family: Family, name: str | None = None, *, prefix: str = PREFIX) -> str:
    """`tidemill.events.flights.v1`; control topics have no name part: `tidemill.releases.v1`."""
    parts = (prefix, family, name, VERSION) if name is not None else (prefix, family, VERSION)
    return ".".join(part for part in parts if part)


def dead_letters(topic_name: str) -> str:
    """Where records of `topic_name` go that can never be processed."""
    return f"{topic_name}.dlq"


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic to be created: `retention_ms` -1 keeps for ever, compaction spares what is younger than its lag.

    With a `compression` the broker compresses what arrives; None keeps it as it was sent.
    """

    name: str
    partitions: int = DEFAULT_PARTITIONS
    compacted: bool = False
    retention_ms: int = -1
    compaction_lag_ms: int = 0
    compression: str | None = None


def control_topics(*, prefix: str = PREFIX) -> list[TopicSpec]:
    """The control plane: one partition each, so that decisions have one order."""
    names = [(family, topic(family, prefix=prefix)) for family in CONTROL]
    specs = [TopicSpec(name, 1, family in _COMPACTED, compaction_lag_ms=RELEASES_LAG_MS) for family, name in names]
    return specs + [TopicSpec(dead_letters(name), 1) for _, name in names]


def source_topics(source: str, partitions: int, *, keep_ms: int = -1, prefix: str = PREFIX) -> list[TopicSpec]:
    """Raw, validated, late and future-dated events of one source, and its dead letters."""
    raw = topic("raw", source, prefix=prefix)
    kept = [TopicSpec(topic(f, source, prefix=prefix), partitions, retention_ms=keep_ms) for f in ("raw", "events")]
    side = [TopicSpec(topic(f, source, prefix=prefix), 1) for f in ("late", "future")]
    return [
        *kept,
        *side,
        TopicSpec(dead_letters(raw), 1),
        TopicSpec(dead_letters(topic("events", source, prefix=prefix)), 1),
    ]


def view_topic(family: Literal["features"], view: str, version: str, *, prefix: str = PREFIX) -> str:
    """A topic of one version of a view: versions run side by side, so none may overwrite another's keys."""
    return topic(family, f"{view}.{version}", prefix=prefix)


def view_topics(
    view: str, version: str, partitions: int, *, rows_of: str | None, prefix: str = PREFIX
) -> list[TopicSpec]:  # fmt: skip
    """The compacted vectors of a view and, where its key is not its source's, the repartition topic of `rows_of`.

    That source's views share it: what they need of an event goes to each partition in one record.
    """
    out = [TopicSpec(view_topic("features", view, version, prefix=prefix), partitions, compacted=True)]
    if rows_of is not None:
        out.append(TopicSpec(topic("repartition", rows_of, prefix=prefix), partitions))
    return out


def pipeline_topics(pipeline: str, partitions: int, *, prefix: str = PREFIX) -> list[TopicSpec]:
    """Requests (partitioned by their id), predictions (by join key) and outcomes (one partition: one ordered merge).

    Predictions are compressed by the broker: the process that answers has no time for it.
    """
    predictions = topic("predictions", pipeline, prefix=prefix)
    outcomes = topic("outcomes", pipeline, prefix=prefix)
    return [
        *request_topics(pipeline, partitions, prefix=prefix),
        TopicSpec(predictions, partitions, compression="zstd"), TopicSpec(dead_letters(predictions), 1),
        TopicSpec(outcomes, 1), TopicSpec(dead_letters(outcomes), 1),
    ]  # fmt: skip


def request_topics(pipeline: str, partitions: int, *, prefix: str = PREFIX) -> list[TopicSpec]:
    """Requests for predictions that come over Kafka, and those that cannot be answered."""
    requests = topic("requests", pipeline, prefix=prefix)
    return [
        TopicSpec(requests, partitions, retention_ms=REQUESTS_KEPT_MS), TopicSpec(dead_letters(requests), 1),
    ]  # fmt: skip


def request_group(pipeline: str, *, prefix: str = PREFIX) -> str:
    """The consumer group that answers a pipeline's requests; its committed offsets say what is done."""
    return f"{prefix}-serving.{pipeline}"
