"""What runs left in the artifact store, read and checked."""

import asyncio
import io
import json

import numpy as np
import pyarrow.parquet as pq
from pydantic import ValidationError

from tidemill_contracts.events import REFERENCE_BYTES, DriftReference, TrainingManifest
from tidemill_engine.onnx import ModelRefusedError, inspect_model
from tidemill_engine.stats import GateRows
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.errors import Never

SEGMENT = "segment."


class StoredEvidence:
    """Evidence in the artifact store. A missing artifact is `Later`, a changed or refused one is `Never`."""

    def __init__(self, artifacts: Artifacts) -> None:
        self._artifacts = artifacts

    async def manifest(self, digest: str) -> TrainingManifest:
        """The manifest with this digest."""
        raw = await asyncio.to_thread(self._artifacts.get, digest)
        return TrainingManifest.model_validate_json(json.dumps(json.loads(raw)))

    async def gate_rows(self, digest: str, base_rate: float) -> GateRows:
        """The rows the gate judges, as the trainer scored them."""
        table = pq.read_table(io.BytesIO(await asyncio.to_thread(self._artifacts.get, digest)))
        names = table.column_names
        champion = table.column("champion").to_numpy() if "champion" in names else None
        segments = {
            name.removeprefix(SEGMENT): np.array(table.column(name).to_pylist(), dtype=np.str_)
            for name in names
            if name.startswith(SEGMENT)
        }
        return GateRows(
            table.column("time_us").to_numpy(), table.column("label").to_numpy(), table.column("candidate").to_numpy(),
            champion, base_rate, segments,
        )  # fmt: skip

    async def check_reference(self, digest: str, model: str, features: list[str]) -> None:
        """What drift is to be measured against is there, of this model and of what it reads."""
        raw = await asyncio.to_thread(self._artifacts.get, digest, most=REFERENCE_BYTES)
        try:
            found = DriftReference.model_validate_json(raw)
        except ValidationError as error:
            msg = f"the reference of drift is refused: {error.errors(include_input=False)[0]['msg']}"
            raise Never(msg) from None
        if found.model != model or [column.name for column in found.columns] != [*features, "score"]:
            raise Never("the reference of drift is of another model")

    async def check_model(self, digest: str) -> None:
        """The model's bytes have their digest and the form that is allowed."""
        try:
            inspect_model(await asyncio.to_thread(self._artifacts.get, digest))
        except ModelRefusedError as error:
            msg = f"the model is refused: {error}"
            raise Never(msg) from None
