"""The operations on quarantined windows, as those in `calls`."""

from typing import Any

from tidemill.client import results as r
from tidemill.client.calls import Call, Steps, part_of


class QuarantinedWindow(r.Result):
    """A window of one partition that broke a declared bound; `ranges` are dense numbers, both ends inclusive."""

    id: str
    source: str
    partition: int
    field: str
    rule: str
    value: float
    bound: float
    rows: int
    window: tuple[str, str]
    ranges: list[tuple[int, int]]
    released: bool
    detail: str


def quarantine(
    source: str | None = None, *, released: bool = False, limit: int = 50
) -> Steps[list[QuarantinedWindow]]:  # fmt: skip
    """Quarantined windows, newest first, of one source or of all; with those that were released, too."""
    params: dict[str, Any] = {"limit": limit} | ({} if source is None else {"source": source})
    answer = yield Call("ingestion", "GET", "/v1/quarantine", params=params | ({"all": "true"} if released else {}))
    return [QuarantinedWindow.model_validate(item) for item in answer["windows"]]


def quarantined(name: str) -> Steps[QuarantinedWindow]:
    """One quarantined window by its id."""
    return QuarantinedWindow.model_validate((yield Call("ingestion", "GET", f"/v1/quarantine/{part_of(name)}")))


def release_quarantined(name: str, *, detail: str = "") -> Steps[QuarantinedWindow]:
    """Let a window's rows train again: trainings that are asked for afterwards use them."""
    path = f"/v1/quarantine/{part_of(name)}/release"
    return QuarantinedWindow.model_validate((yield Call("ingestion", "POST", path, {"detail": detail})))
