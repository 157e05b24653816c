"""The whole state of a monitor as bytes and back. JSON carries float64 exactly; nothing is pickled."""

import base64
import json
from collections import deque
from dataclasses import asdict
from typing import Any
from uuid import UUID

import numpy as np

from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.learn import OnlineLogistic
from tidemill_engine.stats import LossSums
from tidemill_monitoring.domain.join import Counts, Join
from tidemill_monitoring.domain.monitor import Monitor
from tidemill_monitoring.domain.policy import PolicyState
from tidemill_monitoring.domain.segments import PaneSums, Segments
from tidemill_monitoring.domain.watch import Watch

VERSION = 2
_DAY = 86_400_000_000


class StateVersionError(Exception):
    """The stored state was written by another version of the format."""


def fresh(spec: PipelineSpec) -> Monitor:
    """A monitor that has seen nothing."""
    return Monitor(spec, Join(spec.label.expiry), Watch(spec.monitor, spec.feature_names()), Segments(_DAY))


def dump(monitor: Monitor) -> bytes:
    """Everything but the waiting rows, which the store keeps one by one."""
    policy = asdict(monitor.policy) | {
        "recent_us": list(monitor.policy.recent_us),
        "last_request": None if monitor.policy.last_request is None else str(monitor.policy.last_request),
    }
    panes = [
        [*place, pane.answers.to_dict(), {name: sums.to_dict() for name, sums in pane.shadows.items()}]
        for place, pane in sorted(monitor.segments.panes.items())
    ]
    state = {
        "version": VERSION, "names": monitor.spec.feature_names(), "counts": asdict(monitor.join.counts),
        "policy": policy, "panes": panes,
        "features": monitor.features, "next_seq": monitor.next_seq, "positions": monitor.positions,
        "breached": monitor.breached,
        "watch": monitor.watch.to_state(), "learner": _learner(monitor.learner),
    }  # fmt: skip
    return json.dumps(state, separators=(",", ":")).encode()


def load(spec: PipelineSpec, raw: bytes) -> Monitor:
    """The monitor that `dump` wrote; a changed feature list keeps the counts and begins the detectors anew."""
    monitor = fresh(spec)
    if not raw:
        return monitor
    state = json.loads(raw)
    if state["version"] != VERSION:
        raise StateVersionError(str(state["version"]))
    monitor.join.counts = Counts(**state["counts"])
    monitor.policy = _policy(state["policy"])
    for segment, start, answers, shadows in state["panes"]:
        sums = {name: LossSums.from_dict(values) for name, values in shadows.items()}
        monitor.segments.panes[segment, start] = PaneSums(LossSums.from_dict(answers), sums)
    monitor.next_seq, monitor.positions = state["next_seq"], state["positions"]
    monitor.breached = state.get("breached", {})  # not in states of before breaches were causes
    if state["names"] == spec.feature_names():
        monitor.features = state["features"]
        monitor.watch.load(state["watch"])
        monitor.learner = _read_learner(state["learner"])
    return monitor


def _policy(state: dict[str, Any]) -> PolicyState:
    recent, last = deque(state.pop("recent_us")), state.pop("last_request")
    return PolicyState(**state, recent_us=recent, last_request=None if last is None else UUID(last))


def _learner(learner: OnlineLogistic | None) -> dict[str, Any] | None:
    if learner is None:
        return None
    return {name: [list(a.shape), base64.b64encode(a.tobytes()).decode()] for name, a in learner.to_arrays().items()}


def _read_learner(state: dict[str, Any] | None) -> OnlineLogistic | None:
    if state is None:
        return None
    arrays = {name: np.frombuffer(base64.b64decode(raw)).reshape(shape) for name, (shape, raw) in state.items()}
    return OnlineLogistic.from_arrays(arrays)
