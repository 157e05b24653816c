"""What the Open Inference Protocol's statistics say of a model: counts and nanoseconds, added once per batch. Pure."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often something was done, and how long it took in all."""

    count: int = 0
    ns: int = 0

    def add(self, count: int, ns: int) -> None:
        """So many, which took so long together."""
        self.count += count
        self.ns += ns


@dataclass(slots=True)
class ModelStatistics:
    """Of one version of a model. `waited` and `computed` add up over requests, `rows` over what was inferred."""

    last_ms: int = 0
    rows: int = 0
    batches: int = 0
    succeeded: Duration = field(default_factory=Duration)
    failed: Duration = field(default_factory=Duration)
    waited: Duration = field(default_factory=Duration)
    computed: Duration = field(default_factory=Duration)


class Statistics:
    """Of all models since the process began."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], ModelStatistics] = {}

    def batch(
        self, model: tuple[str, str], *, rows: int, requests: int, failed: int, times: tuple[int, int, int]
    ) -> None:  # fmt: skip
        """One batch: `requests` of which `failed` had no answer; `times` are now (ms), and waited and computed (ns)."""
        stats = self.found.setdefault(model, ModelStatistics())
        now_ms, waited_ns, computed_ns = times
        stats.last_ms, stats.batches = now_ms, stats.batches + 1
        stats.rows += rows
        answered, each = requests - failed, waited_ns + computed_ns
        stats.succeeded.add(answered, answered * each)
        stats.failed.add(failed, failed * each)
        stats.waited.add(requests, requests * waited_ns)
        stats.computed.add(requests, requests * computed_ns)
