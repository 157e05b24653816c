"""The training manifest: everything that decides the bytes of a model, and nothing that does not."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tidemill_contracts.events import TrainingManifest, TrainingRequested
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.quarantine import Ranges
from tidemill_trainer.domain.training import Trained

CODE = ("tidemill_contracts", "tidemill_engine", "tidemill_trainer")


def code_digest(packages: Iterable[Path]) -> str:
    """SHA-256 over the Python sources of packages, by relative path: the code that a model came from."""
    digest = hashlib.sha256()
    for package in sorted(packages, key=lambda path: path.name):
        for path in sorted(package.rglob("*.py"), key=lambda path: path.relative_to(package).as_posix()):
            digest.update(f"{package.name}/{path.relative_to(package).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def manifest_of(  # noqa: PLR0913 - keyword-only, all that decides the bytes of a model
    spec: PipelineSpec,
    request: TrainingRequested,
    trained: Trained,
    *,
    digests: dict[str, str],
    first: TrainingRequested | None = None,
    excluded: Ranges | None = None,
) -> TrainingManifest:
    """The manifest of a finished training; `digests` gives data, code and lock.

    `first` had the archive's rows, `excluded` are the quarantined ranges whose rows were left out.
    """
    cold = request.cause.kind == "cold_start"
    archived = request if cold else first
    return TrainingManifest(
        pipeline=spec.name, spec=spec.digest(), policy=spec.policy_digest(), trainer=spec.model.trainer,
        parameters=dict(spec.model.parameters), window=trained.choice.window, seed=spec.model.seed,
        outcomes=None if cold else (0, request.outcomes_to),
        excluded=excluded or {},
        events={} if archived is None else {n: dict(places) for n, places in sorted(archived.positions.items())},
        as_of_us=request.at_us, views={view: spec.view_version(view) for view in spec.views},
        features=list(spec.feature_names()), rows=trained.parts, data=digests["data"],
        code=digests["code"], lock=digests["lock"],
    )  # fmt: skip


def canonical_bytes(manifest: TrainingManifest) -> bytes:
    """The manifest as it is stored and named by digest."""
    return json.dumps(manifest.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()
