"""Asking for a training, and what became of it."""

from typing import Any

from tidemill.client import results as r
from tidemill.client.calls import Call, Steps, champion, now_or, or_none, part_of, read_json, spec_of, status
from tidemill.client.errors import TidemillError

DECIDED = frozenset({"released", "failed", "refused", "coalesced", "inconclusive", "rejected", "suggested"})


def train(
    pipeline: str, *, at: str | int | None = None, detail: str = "", from_archive: bool | None = None
) -> Steps[str]:
    """Ask for a training by hand and return the request's id.

    It learns from the labelled predictions known now; `from_archive`, from the events in the archive, with features as
    they were known then. None decides: from the archive before the first release, and when the pipeline file has other
    versions of views than the release that answers, since no prediction was logged with them. `at` is the event time
    from which it is seen; else where the pipeline's stream stands.
    """
    served = (yield from status("serving"))["pipelines"].get(pipeline)
    if served is None:
        raise TidemillError(f"there is no pipeline {pipeline}: apply its file first")
    spec, body = (yield from spec_of(pipeline)), dict[str, Any](detail=detail)
    if from_archive is None:
        release = yield from or_none(champion(pipeline))
        from_archive = release is None or release.views != {view: spec.view_version(view) for view in spec.views}
    if from_archive:
        sources = (yield from status("ingestion"))["sources"]
        positions = {f"events.{name}": sources[name]["positions"] for name in spec.sources if name in sources}
        body |= {"cause": "cold_start", "at": now_or(at, served["watermark_us"]), "positions": positions}
    else:
        merged = (yield from status("monitoring"))["pipelines"][pipeline]
        body |= {"cause": "hand", "at": now_or(at, merged["watermark_us"]), "outcomes_to": merged["outcomes"]}
    answer = yield Call("trainer", "POST", f"/v1/pipelines/{part_of(pipeline)}/train", body)
    return str(answer["request_id"])


def training_outcome(request_id: str) -> Steps[r.TrainingOutcome | None]:
    """What became of a training request; None while that is open, and while a release is not yet loaded by serving."""
    for service in ("trainer", "registry"):
        answer = yield from or_none(read_json(service, f"/v1/requests/{part_of(request_id)}"))
        if answer is not None and answer["status"] in DECIDED:
            outcome = r.TrainingOutcome.model_validate(answer)
            return outcome if (yield from _is_loaded(answer.get("pipeline"), outcome.epoch)) else None
    return None


def _is_loaded(pipeline: str | None, epoch: int | None) -> Steps[bool]:
    """Whether serving has a release; None: there is none to wait for."""
    if epoch is None:
        return True
    mine = (yield from status("serving"))["pipelines"].get(pipeline) or {}
    return (mine.get("epoch") or 0) >= epoch or epoch in (mine.get("staged") or [])
