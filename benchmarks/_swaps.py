"""Versions in the registry without a training: forests of other seeds, and the runs that brought them."""

import io
import json
from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _models import TREES
from _stack import START_US, get, until

from tidemill.stack import Endpoints
from tidemill_contracts import Envelope, topic
from tidemill_contracts.events import Cause, RunFinished, TrainingManifest, encode
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.learn.boosting import fit_lightgbm
from tidemill_runtime.artifacts import Artifacts

ROWS, DIGEST = 2000, "0" * 64
Write = Callable[[str, str, Sequence[tuple[bytes, Envelope, int]]], Awaitable[None]]


def model_of(spec: PipelineSpec, seed: int) -> bytes:
    """The ONNX forest of a seed: another one answers otherwise."""
    features = list(spec.feature_names())
    made = np.random.default_rng(seed)
    rows = made.normal(size=(ROWS, len(features))).astype(np.float32)
    labels = (rows[:, 0] + rows[:, 1] * rows[:, 2] + made.normal(size=ROWS) > 0).astype(np.float64)
    return fit_lightgbm(rows, labels, {"num_iterations": TREES, "num_leaves": 31}, seed).to_onnx(features)


async def register(seen: Endpoints, spec: PipelineSpec, models: Sequence[bytes], write: Write) -> None:
    """Apply the pipeline, and let the registry know the models as versions 1, 2, ...; none of them is released."""
    base = f"{seen.services['registry'].url}/v1/pipelines/{spec.name}"
    async with httpx.AsyncClient(timeout=30) as client:
        (await client.put(base, json=spec.model_dump(mode="json"))).raise_for_status()
    store, records = Artifacts(seen.artifacts), []
    evaluation = store.put(_evaluation())
    for number, model in enumerate(models, 1):
        manifest = TrainingManifest(
            pipeline=spec.name, spec=spec.digest(), policy=spec.policy_digest(), trainer="lightgbm", parameters={},
            window="all", seed=number, as_of_us=START_US, views={view: spec.view_version(view) for view in spec.views},
            features=list(spec.feature_names()), rows={"train": ROWS}, data=DIGEST, code=DIGEST, lock=DIGEST,
        )  # fmt: skip
        run = RunFinished(
            run_id=UUID(int=number), request_id=UUID(int=1000 + number), pipeline=spec.name, status="succeeded",
            at_us=START_US + number, cause=Cause(kind="hand"), model=store.put(model),
            manifest=store.put(json.dumps(manifest.model_dump(mode="json")).encode()), evaluation=evaluation,
            metrics={"parity_error": 1.0, "size_bytes": float(len(model))},
        )  # fmt: skip
        envelope = encode(run, id=str(run.run_id), source="benchmark", time_us=run.at_us)
        records.append((spec.name.encode(), envelope, 0))
    await write(seen.kafka, topic("runs"), records)

    async def known() -> bool:
        found = await get(f"{base}/versions")
        return bool(found and len(found["items"]) == len(models))

    await until(known, "the versions are registered")


def _evaluation() -> bytes:
    """The rows of a gate; its parity error is over every bound, so that no version is released by itself."""
    made = np.random.default_rng(1)
    labels = made.integers(0, 2, ROWS).astype(np.float64)
    times = np.arange(ROWS, dtype=np.int64) * 60_000_000
    out = io.BytesIO()
    pq.write_table(pa.table({"time_us": times, "label": labels, "candidate": made.random(ROWS)}), out)
    return out.getvalue()
