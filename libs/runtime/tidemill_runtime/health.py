"""Whether a service may be sent traffic, and whether to restart it: named conditions and per-partition progress."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import Gauge

LAG = Gauge(
    "tidemill_consumer_lag", "Records that are readable and not yet processed.", ["group", "topic", "partition"]
)
STUCK_AFTER_S = 120.0


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that readiness asks for; `reason` says why it does not hold."""

    name: str
    ok: bool
    reason: str = ""


@dataclass(slots=True)
class Progress:
    """Where a reader of one partition is: `lag` records behind since `moved_at` (monotonic seconds)."""

    position: int
    lag: int
    moved_at: float


class Health:
    """Ready when every condition holds; alive unless a partition with lag has not moved for `stuck_after_s` seconds.

    A partition that waits for a known reason (a failing condition of its own) is not stuck: a restart would not help.
    """

    def __init__(self, *, stuck_after_s: float = STUCK_AFTER_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._conditions: dict[str, Condition] = {}
        self._progress: dict[tuple[str, str, int], Progress] = {}
        self._stuck_after, self._clock = stuck_after_s, clock

    def set(self, name: str, ok: bool, reason: str = "") -> None:  # noqa: FBT001 - reads as set("kafka", True)
        """State a condition; it stays until it is stated again or dropped."""
        self._conditions[name] = Condition(name, ok, "" if ok else reason)

    def drop(self, name: str) -> None:
        """Forget a condition: the thing it spoke of is no longer ours."""
        self._conditions.pop(name, None)

    def progress(self, group: str, topic: str, partition: int, *, position: int, end: int) -> None:
        """Tell the watchdog where a reader is; `end` is the offset after the last readable record."""
        key, lag = (group, topic, partition), max(0, end - position)
        known = self._progress.get(key)
        if known is None or known.position != position or not lag or not known.lag:
            self._progress[key] = Progress(position, lag, self._clock())
        else:
            known.lag = lag
        LAG.labels(group, topic, partition).set(lag)

    def forget(self, group: str, topic: str, partition: int) -> None:
        """Another member reads this partition now."""
        if self._progress.pop((group, topic, partition), None) is not None:
            LAG.remove(group, topic, str(partition))

    def ready(self) -> tuple[bool, list[Condition]]:
        """Whether all conditions hold, and all of them by name. Without any condition nothing is known: not ready."""
        conditions = [self._conditions[name] for name in sorted(self._conditions)]
        return bool(conditions) and all(condition.ok for condition in conditions), conditions

    def alive(self) -> tuple[bool, list[Condition]]:
        """Whether every partition moves or says why it does not; the list holds those that are stuck."""
        stuck = [
            Condition(f"{group}/{topic}/{partition}", ok=False, reason=f"{at.lag} behind, no progress")
            for (group, topic, partition), at in sorted(self._progress.items())
            if at.lag and self._clock() - at.moved_at > self._stuck_after and not self._explained(group, partition)
        ]
        return not stuck, stuck

    def positions(self) -> dict[tuple[str, str, int], Progress]:
        """(group, topic, partition) to where its reader is."""
        return dict(self._progress)

    def _explained(self, group: str, partition: int) -> bool:
        condition = self._conditions.get(partition_condition(group, partition))
        return condition is not None and not condition.ok


def partition_condition(group: str, partition: int) -> str:
    """The name of the condition under which a group's reader of a partition says why it waits."""
    return f"{group}/{partition}"
