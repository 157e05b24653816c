"""What an operator watches, read from the parts when Prometheus asks: nothing is counted on the hot path."""

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.house import House
from tidemill_serving.spool import Shipper, Spool

LABELS = ("pipeline",)
ARMS, FALLBACKS = ("pipeline", "arm", "version"), ("pipeline", "arm", "reason")
CAPTURE = ("pipeline", "outcome")
SHADOWS = ("pipeline", "shadow", "outcome")


class ServingMetrics(Collector):
    """Registered while a process serves; `describe` names the metrics without a process."""

    _labelnames = LABELS

    def __init__(self, house: House, spool: Spool, shipper: Shipper) -> None:
        self._house, self._spool, self._shipper = house, spool, shipper

    def register(self) -> None:
        """Let /metrics show this process; one set of parts at a time."""
        REGISTRY.register(self)

    def unregister(self) -> None:
        """The process stops serving."""
        REGISTRY.unregister(self)

    def describe(self) -> Iterator[Metric]:
        """The families without samples."""
        yield from families().values()

    def collect(self) -> Iterator[Metric]:
        """The families with what is so now."""
        found = families()
        self._process(found)
        for name, desk in self._house.desks.items():
            values: dict[str, float] = {
                "epoch": desk.champion.active.released.epoch if desk.champion.active else 0,
                "watermark_seconds": (desk.watermark_us(self._house.replica) or 0) / 1e6,
                "staged": len(desk.champion.staged),
                "refused_releases": len(desk.refused),
            }
            for metric, value in values.items():
                found[metric].add_metric([name], value)
            _traffic(found, desk)
            if desk.capture is not None or desk.inputs is not None:
                found["captured"].add_metric([name, "captured"], desk.traffic.captured)
                found["captured"].add_metric([name, "uncaptured"], desk.traffic.uncaptured)
            if (bulk := self._house.bulk.get(name)) is not None:
                found["bulk_instances"].add_metric([name], bulk.instances)
                found["bulk_letters"].add_metric([name], bulk.letters)
                found["bulk_held"].add_metric([name], float(bulk.is_held))
        for name, tally in self._spool.tallies.items():
            found["predictions"].add_metric([name], tally.predictions)
            found["shipped"].add_metric([name], self._shipper.counts.get(name, 0))
            found["unlogged"].add_metric([name], self._spool.unlogged.get(name, 0))
        yield from found.values()

    def _process(self, found: dict[str, CounterMetricFamily | GaugeMetricFamily]) -> None:
        counts = self._house.counts
        values = {
            "spool_pending_bytes": self._spool.pending_bytes,
            "spool_pending_records": self._spool.end - self._shipper.position,
            "degraded": float(self._house.degraded),
            "batches": counts.batches,
            "rows": counts.rows,
            "log_refused": counts.log_refused,
            "bad_records": counts.bad_records,
            "pauses": counts.pauses,
        }
        for metric, value in values.items():
            found[metric].add_metric([], value)


def _traffic(found: dict[str, CounterMetricFamily | GaugeMetricFamily], desk: Desk) -> None:
    """Who answers which share, and what became of those who should have."""
    name, active, traffic = desk.spec.name, desk.champion.active, desk.traffic
    if active is not None:
        found["share"].add_metric([name, "champion", str(active.leader.version)], active.share)
        if active.rival is not None:
            found["share"].add_metric([name, "challenger", str(active.rival.leader.version)], active.rival.share)
    for (arm, version), count in list(traffic.answers.items()):
        found["answers"].add_metric([name, arm, str(version)], count)
    for (arm, reason), count in list(traffic.fallbacks.items()):
        found["fallbacks"].add_metric([name, arm, reason], count)
    for (shadow, outcome), count in list(traffic.shadows.items()):
        found["shadows"].add_metric([name, shadow, outcome], count)


def families() -> dict[str, CounterMetricFamily | GaugeMetricFamily]:
    """Every metric of serving by its short name, without samples."""
    counters = {
        "predictions": ("Predictions in this instance's log, ever.", LABELS),
        "shipped": ("Predictions that Kafka has acknowledged, ever.", LABELS),
        "answers": ("Entity answers since the process began, by the side and version that gave them.", ARMS),
        "fallbacks": ("Answers that another gave than whose key it was, or not all of its members.", FALLBACKS),
        "shadows": ("Rows for shadows off the path of answers: scored, dropped, or why not.", SHADOWS),
        "unlogged": ("Answers that the policy at the log's limit left out of it.", LABELS),
        "captured": ("Records with the request fields or inputs of the declared sample, and without them.", CAPTURE),
        "bulk_instances": ("Instances of requests over Kafka that were answered, or known.", LABELS),
        "bulk_letters": ("Requests over Kafka that went to the dead letters.", LABELS),
        "batches": ("Batches scored.", ()),
        "rows": ("Instances scored.", ()),
        "log_refused": ("Writes that the spool refused: its limit is reached or the disk is full.", ()),
        "pauses": ("Times that the process stood still, so that answers waited for news of releases.", ()),
        "bad_records": ("Records of topics that could not be read and were left out.", ()),
    }
    gauges = {
        "epoch": ("Epoch of the release that answers; 0: none.", LABELS),
        "share": ("Share of the keys that an arm has, and its leading version.", ARMS),
        "watermark_seconds": ("Event time of the features, seconds since 1970.", LABELS),
        "staged": ("Releases that wait for their time.", LABELS),
        "refused_releases": ("Releases that were not taken since the process began.", LABELS),
        "spool_pending_bytes": ("Bytes of segments with records that Kafka does not have.", ()),
        "spool_pending_records": ("Records that Kafka does not have.", ()),
        "bulk_held": ("1 while requests over Kafka wait: for features, a release, room in the log.", LABELS),
        "degraded": ("1 while answers may be behind what Kafka holds.", ()),
    }
    made: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
    for name, (text, labels) in counters.items():
        made[name] = CounterMetricFamily(f"tidemill_serving_{name}", text, labels=labels)
    for name, (text, labels) in gauges.items():
        made[name] = GaugeMetricFamily(f"tidemill_serving_{name}", text, labels=labels)
    return made
