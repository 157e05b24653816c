"""The training process: one job from standard input, progress and the result as JSON lines on standard output.

It is spawned for each job and dies with it, so nothing of a training stays in the service, and one that is killed
leaves only artifacts that nobody names.
"""

import asyncio
import io
import json
import signal
import sys
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel

from tidemill_contracts.events import Released, TrainingRequested
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.onnx import golden_inputs
from tidemill_engine.quarantine import Quarantine
from tidemill_engine.rollout import mix
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.settings import ServiceSettings
from tidemill_trainer.coldstart import ColdStartError, cold_rows, wait_for_archive
from tidemill_trainer.domain.manifest import CODE, canonical_bytes, code_digest, manifest_of
from tidemill_trainer.domain.quarantine import without
from tidemill_trainer.domain.reference import reference_bytes, reference_of
from tidemill_trainer.domain.rows import Float32s, Floats, Rows
from tidemill_trainer.domain.training import TooFewRowsError, Trained, train
from tidemill_trainer.history import with_history
from tidemill_trainer.kafka import read_quarantine, read_tainted
from tidemill_trainer.onnx import onnx_scores
from tidemill_trainer.outcomes import OutcomesMissingError, Wanted, load_outcomes

EXPECTED = (TooFewRowsError, ColdStartError, OutcomesMissingError, ValueError)


class Job(BaseModel):
    """What the training process is told; `champion_spec` is the champion's file where it is another than `spec`."""

    request: TrainingRequested
    spec: PipelineSpec
    champion: Released | None
    champion_spec: PipelineSpec | None = None
    first: TrainingRequested | None = None
    lock: str
    cache: Path


def main() -> None:
    """Run the job on standard input; exits 0 with a result, also with a refusal that a user can act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service decides when a training ends
    job = Job.model_validate_json(sys.stdin.buffer.read())
    settings = ServiceSettings()
    try:
        result: dict[str, Any] = asyncio.run(run(job, settings))
    except EXPECTED as error:
        result = {"error": f"{type(error).__name__}: {error}"}
    _say({"result": result})


async def run(job: Job, settings: ServiceSettings) -> dict[str, Any]:
    """Train, write the artifacts and return their digests with the metrics; naming them is the service's."""
    _progress("rows", 0.0)
    quarantine = await read_quarantine(settings, job.spec, job.request.at_us)
    rows = await _rows(job, settings, quarantine)
    trained = train(job.spec, rows, job.request, _progress)
    names = job.spec.feature_names()
    model = trained.fitted.to_onnx(names, trained.calibration)
    _progress("check", 0.9)
    store = Artifacts(settings.artifacts)
    rival = None
    if job.champion is not None and (inputs := _rival_inputs(job, settings, trained.gate, quarantine)) is not None:
        scores = [onnx_scores(store.get(member.model), inputs) for member in job.champion.members]
        rival = mix(scores, [member.weight for member in job.champion.members]) if len(scores) > 1 else scores[0]
    evaluation, metrics = _evaluate(trained, model, rival)
    digest = store.put(model)
    known = reference_of(names, trained, digest, lambda inputs: onnx_scores(model, inputs))
    digests = {"data": rows.digest(), "code": code_digest(_packages()), "lock": job.lock}
    manifest = manifest_of(job.spec, job.request, trained, first=job.first, digests=digests, excluded=quarantine.ranges)
    return {
        "model": digest,
        "manifest": store.put(canonical_bytes(manifest)),
        "evaluation": store.put(evaluation),
        "reference": store.put(reference_bytes(known)),
        "metrics": metrics,
    }


async def _rows(job: Job, settings: ServiceSettings, quarantine: Quarantine) -> Rows:
    spec, request = job.spec, job.request
    if request.cause.kind == "cold_start":
        await wait_for_archive(settings.artifacts, request.positions)
        return cold_rows(
            spec, settings.artifacts, as_of_us=request.at_us, positions=request.positions, quarantine=quarantine
        )
    names = spec.feature_names()
    wanted = Wanted(spec.name, request.outcomes_to, spec.vector_digest(names), len(names), tuple(spec.monitor.segments))
    cache = job.cache / spec.name
    logged = await load_outcomes(settings, cache, wanted)
    if quarantine:
        tainted = await read_tainted(settings, spec, quarantine)
        logged = without(logged, quarantine, spec.label.source, tainted)
    if job.first is None:
        return logged
    return await with_history(spec, logged, job.first, cache=cache, archive=settings.artifacts, quarantine=quarantine)


def _rival_inputs(job: Job, settings: ServiceSettings, gate: Rows, quarantine: Quarantine) -> Float32s | None:
    """The champion's inputs for the gate's rows; None where it has others and they are not to be had.

    Where it reads other versions of views they come from the archive, as the candidate's own do in a cold start.
    Raises ValueError where only logged vectors of the candidate's versions are at hand.
    """
    champion, theirs = job.champion, job.champion_spec
    assert champion is not None  # noqa: S101 - asked for a champion
    names, request = job.spec.feature_names(), job.request
    if theirs is None or theirs.vector_digest(champion.features) == job.spec.vector_digest(names):
        return gate.features if champion.features == names else None
    if request.cause.kind != "cold_start":
        raise ValueError("the champion reads other versions of views than the pipeline file: train from the archive")
    rows = cold_rows(
        theirs, settings.artifacts, as_of_us=request.at_us, positions=request.positions, quarantine=quarantine
    )
    same = rows.take(np.flatnonzero(np.isin(rows.labelled_us, gate.labelled_us)))
    if not (np.array_equal(same.labelled_us, gate.labelled_us) and np.array_equal(same.labels, gate.labels)):
        raise ValueError("the champion's file gives other rows than the pipeline file: they cannot be compared")
    return same.features if champion.features == theirs.feature_names() else None


def _evaluate(trained: Trained, model: bytes, rival: Floats | None) -> tuple[bytes, dict[str, float]]:
    """The gate's rows as Parquet, and figures about the candidate. Scores are ONNX's, as serving will answer."""
    gate = trained.gate
    candidate = onnx_scores(model, gate.features)
    probe = np.vstack([gate.features, golden_inputs(gate.features.shape[1])])
    error = float(np.max(np.abs(onnx_scores(model, probe) - trained.scores(probe)), initial=0.0))
    columns: dict[str, Any] = {"time_us": gate.labelled_us, "label": gate.labels, "candidate": candidate}
    if rival is not None:
        columns["champion"] = rival
    columns |= {f"segment.{name}": pa.array(values.tolist(), pa.string()) for name, values in gate.segments.items()}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd", store_schema=False)
    metrics = {
        "parity_error": error, "size_bytes": float(len(model)), "base_rate": trained.base_rate,
        **{f"rows_{name}": float(count) for name, count in trained.parts.items()},
    }  # fmt: skip
    return sink.getvalue(), metrics


def _packages() -> Iterable[Path]:
    for name in CODE:
        found = find_spec(name)
        assert found is not None and found.origin is not None  # noqa: S101, PT018 - these packages run this code
        yield Path(found.origin).parent


def _progress(name: str, share: float) -> None:
    _say({"progress": {"name": name, "share": share}})


def _say(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
