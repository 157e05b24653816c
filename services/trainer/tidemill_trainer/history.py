"""The rows of the first model, kept for the models after it: what the archive gave is older than any logged prediction.

A candidate that had to do without them would be compared with a champion that learned from more. They are a function
of the first request and the pipeline file, so the copy on disk only saves the time to replay the archive.
"""

import asyncio
import hashlib
from pathlib import Path

import numpy as np

from tidemill_contracts.events import TrainingRequested
from tidemill_contracts.pipeline import PipelineSpec
from tidemill_engine.quarantine import Quarantine
from tidemill_trainer.coldstart import NOTHING, cold_rows, wait_for_archive
from tidemill_trainer.domain.rows import Rows, concatenate
from tidemill_trainer.outcomes import read_rows, write_rows


async def with_history(  # noqa: PLR0913 - keyword-only, where the rows are and which are left out
    spec: PipelineSpec, logged: Rows, first: TrainingRequested, *, cache: Path, archive: str,
    quarantine: Quarantine = NOTHING,
) -> Rows:  # fmt: skip
    """The first model's rows before the logged ones; none whose label came when there were logged ones already."""
    path = cache / f"history-{_name(spec, first, quarantine)}.npz"
    if path.exists():
        rows, _ = await asyncio.to_thread(read_rows, path, spec.monitor.segments)
    else:
        await wait_for_archive(archive, first.positions)
        rows = await asyncio.to_thread(
            cold_rows, spec, archive, as_of_us=first.at_us, positions=first.positions, quarantine=quarantine
        )
        await asyncio.to_thread(write_rows, path, rows, offset=0)
    if len(logged):
        rows = rows.take(np.flatnonzero(rows.labelled_us < logged.labelled_us.min()))
    return concatenate([rows, logged])


def _name(spec: PipelineSpec, first: TrainingRequested, quarantine: Quarantine) -> str:
    parts = [spec.digest(), str(first.request_id), *([quarantine.name()] if quarantine else [])]
    return hashlib.sha256("/".join(parts).encode()).hexdigest()[:16]
