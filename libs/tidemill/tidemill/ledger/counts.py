"""Conservation: what came in is accounted for, each thing once. Counts are read from durable rows or from topics."""

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from tidemill.client.transport import AsyncTransport
from tidemill.ledger.topics import body, read_ids, read_topic
from tidemill_contracts.events import Prediction, Released, TrainingCoalesced, TrainingRequested
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_contracts.topics import RELEASES_LAG_MS, topic

Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The counts, and what does not add up (nothing, if all is well)."""

    counts: Counts
    broken: list[str]

    @property
    def balanced(self) -> bool:
        """Whether every equation holds."""
        return not self.broken


async def read_ledger(
    transport: AsyncTransport, bootstrap: str, spec: PipelineSpec, *, prefix: str = "tidemill"
) -> Ledger:
    """Counts of one pipeline, as of now; wait for the pipeline to come to rest first, or counts on the way differ."""
    counts: Counts = {
        "events": await _events(transport, bootstrap, spec, prefix),
        "predictions": await _predictions(transport, bootstrap, spec, prefix),
        "labels": await _labels(transport, spec),
        "training": await _training(transport, bootstrap, spec, prefix),
        "releases": await _releases(transport, bootstrap, spec, prefix),
    }
    return Ledger(counts, equations(counts))


def equations(counts: Counts) -> list[str]:
    """The equations that do not hold, in words."""
    events, predictions, labels = counts["events"], counts["predictions"], counts["labels"]
    training, releases = counts["training"], counts["releases"]
    classes = ("joined", "pending", "unmatched", "expired", "conflicting", "duplicate")
    rules = [
        ("accepted ids = distinct ids in the topic", events["accepted"], events["distinct"]),
        (
            "accepted ids = applied + late + dead-lettered",
            events["accepted"], events["applied"] + events["late"] + events["dead_lettered"],
        ),
        ("predictions answered = spooled", predictions["answered"], predictions["spooled"]),
        (
            "predictions spooled + asked for over Kafka = in the topic",
            predictions["spooled"] + predictions["over_kafka"], predictions["in_topic"],
        ),
        ("each prediction is in the topic once", predictions["repeated"], 0),
        ("labels received = the sum of their classes", labels["received"], sum(labels[name] for name in classes)),
        (
            "training requests = runs + coalesced + refused",
            training["requested"], training["runs"] + training["coalesced"] + training["refused"],
        ),
        ("epochs are dense from 1", releases["highest"], releases["epochs"]),
        ("one release event per epoch", releases["events"], releases["epochs"]),
    ]  # fmt: skip
    return [f"{name}: {left} is not {right}" for name, left, right in rules if left != right]


async def _events(transport: AsyncTransport, bootstrap: str, spec: PipelineSpec, prefix: str) -> dict[str, int]:
    status = await transport.call("ingestion", "GET", "/v1/status")
    total: Counter[str] = Counter()
    for source in spec.sources:
        counts = status["sources"][source]
        for name in ("accepted", "applied", "late", "future", "dead_lettered"):
            total[name] += counts.get(name, 0)
        ids: set[str] = set()
        async for found in read_ids(bootstrap, topic("raw", source, prefix=prefix)):
            ids.update(event.id for event in found if not event.type.startswith("tidemill.timer"))
        total["distinct"] += len(ids)
    return {
        "accepted": total["accepted"], "distinct": total["distinct"], "applied": total["applied"],
        "late": total["late"] + total["future"], "dead_lettered": total["dead_lettered"],
    }  # fmt: skip


async def _predictions(transport: AsyncTransport, bootstrap: str, spec: PipelineSpec, prefix: str) -> dict[str, int]:
    status = (await transport.call("serving", "GET", "/v1/status"))["pipelines"][spec.name]
    seen: Counter[str] = Counter()
    caused = 0
    async for found in read_ids(bootstrap, topic("predictions", spec.name, prefix=prefix)):
        mine = [event for event in found if event.type == Prediction.TYPE]
        seen.update(event.id for event in mine)
        caused += sum(event.is_caused for event in mine)
    repeated = sum(count - 1 for count in seen.values())
    return {
        "answered": status["answered"], "spooled": status["spooled"], "over_kafka": caused, "in_topic": len(seen),
        "repeated": repeated,
    }  # fmt: skip


async def _labels(transport: AsyncTransport, spec: PipelineSpec) -> dict[str, int]:
    status = (await transport.call("monitoring", "GET", "/v1/status"))["pipelines"][spec.name]
    labels: dict[str, int] = status["labels"]
    return labels


async def _training(transport: AsyncTransport, bootstrap: str, spec: PipelineSpec, prefix: str) -> dict[str, int]:
    requests: set[str] = set()
    extra: dict[str, str] = {}
    async for record in read_topic(bootstrap, topic("training", prefix=prefix)):
        event = body(record)
        if record.envelope is None or event.get("pipeline") != spec.name:
            continue
        if record.envelope.type == TrainingRequested.TYPE:
            requests.add(event["request_id"])
        elif record.envelope.type == TrainingCoalesced.TYPE:
            extra[event["cause_id"]] = event["outcome"]
    runs = {
        run["request_id"]
        for run in (await transport.call("trainer", "GET", "/v1/runs"))["runs"]
        if run["pipeline"] == spec.name
    }
    outcomes = Counter(extra.values())
    by_trainer = requests & set(extra)
    return {
        "requested": len(requests | set(extra)), "runs": len(runs),
        "coalesced": outcomes["coalesced"], "refused": outcomes["refused"], "by_trainer": len(by_trainer),
    }  # fmt: skip


async def _releases(transport: AsyncTransport, bootstrap: str, spec: PipelineSpec, prefix: str) -> dict[str, int]:
    rows = (await transport.call("registry", "GET", f"/v1/pipelines/{spec.name}/releases"))["releases"]
    epochs = [row["epoch"] for row in rows]
    ids = set()
    async for record in read_topic(bootstrap, topic("releases", prefix=prefix)):
        event = body(record)
        if record.envelope is not None and record.envelope.type == Released.TYPE and event.get("pipeline") == spec.name:
            ids.add(record.envelope.id)
    # A release that was superseded and is older than the topic's lag may be compacted away; nothing else may miss.
    oldest = time.time() - RELEASES_LAG_MS / 1000
    gone = {row["event_id"] for row in rows[:-1] if datetime.fromisoformat(row["released_at"]).timestamp() < oldest}
    return {"epochs": len(set(epochs)), "highest": max(epochs, default=0), "events": len(ids | gone)}
