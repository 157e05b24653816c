"""Decisions by hand about what answers, as the operations in `calls`."""

from collections.abc import Mapping
from typing import Any

from tidemill.client.calls import Call, Steps, event_of, part_of, time_of
from tidemill_contracts.events import Released


def promote(
    pipeline: str, version: int | None = None, *, at: str | int | None = None, expected_epoch: int | None = None,
    detail: str = "",
) -> Steps[Released]:  # fmt: skip
    """Release a version by hand (None: the challenger); 409 when `expected_epoch` is no longer the champion's."""
    body = {} if version is None else {"version": version}
    return (yield from _order("promote", pipeline, body, at, expected_epoch, detail))


def canary(  # noqa: PLR0913 - what an order says
    pipeline: str, version: int, *, share: float | None = None, at: str | int | None = None,
    expected_epoch: int | None = None, detail: str = "",
) -> Steps[Released]:  # fmt: skip
    """Let a version answer a share of the keys, as the champion's challenger; None: the next of `rollout.steps`."""
    body = {"version": version} | ({} if share is None else {"share": share})
    return (yield from _order("canary", pipeline, body, at, expected_epoch, detail))


def shadow(  # noqa: PLR0913 - what an order says
    pipeline: str, version: int, *, remove: bool = False, at: str | int | None = None,
    expected_epoch: int | None = None, detail: str = "",
) -> Steps[Released]:  # fmt: skip
    """Score with a version beside every answer, after it has left; or no longer."""
    return (yield from _order("shadow", pipeline, {"version": version, "remove": remove}, at, expected_epoch, detail))


def mix(
    pipeline: str, weights: Mapping[int, float], *, at: str | int | None = None, expected_epoch: int | None = None,
    detail: str = "",
) -> Steps[Released]:  # fmt: skip
    """Let several versions answer together, by weight."""
    members = [{"version": version, "weight": weight} for version, weight in weights.items()]
    return (yield from _order("mix", pipeline, {"members": members}, at, expected_epoch, detail))


def rollback(
    pipeline: str, *, to_epoch: int | None = None, at: str | int | None = None, expected_epoch: int | None = None,
    detail: str = "",
) -> Steps[Released]:  # fmt: skip
    """Go back to `to_epoch`; else to the champion without its challenger, or the latest release of other models."""
    body = {} if to_epoch is None else {"to_epoch": to_epoch}
    return (yield from _order("rollback", pipeline, body, at, expected_epoch, detail))


def _order(  # noqa: PLR0913 - what every order says
    what: str, pipeline: str, body: Mapping[str, Any], at: str | int | None, expected_epoch: int | None, detail: str
) -> Steps[Released]:  # fmt: skip
    whole = {**body, "at": (yield from time_of(pipeline, at)), "detail": detail}
    if expected_epoch is not None:
        whole["expected_epoch"] = expected_epoch
    path = f"/v1/pipelines/{part_of(pipeline)}/{what}"
    return event_of(Released, (yield Call("registry", "POST", path, whole)))
