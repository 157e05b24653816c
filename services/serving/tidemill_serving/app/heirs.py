"""What workers that are no more have left on the disk: the first worker ships it and then says that they have gone."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tidemill_serving.api.status import LogState
from tidemill_serving.domain.entries import Entry, Tally
from tidemill_serving.domain.house import House
from tidemill_serving.settings import Settings
from tidemill_serving.spool import Shipper, Spool, SpoolLimits, spool_of, state_of

LOOK_S = 0.2
MOST = 64
PATIENCE_S = 5.0
_log = logging.getLogger(__name__)


def limits_of(settings: Settings) -> SpoolLimits:
    """Of this process's spool; a worker that is started again waits for the one before it to be gone."""
    return SpoolLimits(
        pending_bytes=settings.spool_limit_bytes, keep_bytes=settings.spool_keep_bytes, fsync=settings.spool_fsync,
        patience_s=0.0 if settings.worker is None else PATIENCE_S,
        sample=settings.spool_sample if settings.spool_at_limit == "sample" else None,
    )  # fmt: skip


def log_state(parts: Sequence[tuple[Spool, Shipper]]) -> LogState:
    """The counts of several spools as one."""
    tallies, counts = dict[str, Tally](), dict[str, int]()
    for spool, shipper in parts:
        for name, tally in spool.tallies.items():
            tallies[name] = Tally(tally.predictions + (tallies[name].predictions if name in tallies else 0))
        for name, shipped in shipper.counts.items():
            counts[name] = counts.get(name, 0) + shipped
    totals = {
        "records": sum(spool.end for spool, _ in parts), "position": sum(shipper.position for _, shipper in parts),
        "pending_bytes": sum(spool.pending_bytes for spool, _ in parts),
    }  # fmt: skip
    return LogState(tallies, counts, totals, dict(parts[0][0].unlogged))


class Heirs:
    """The spools of workers above the number that runs; opened at once, so that the counts are whole from the start."""

    def __init__(self, settings: Settings, seen: Callable[[int, Entry], None]) -> None:
        """`seen` is shown every record that is left, for requests that are sent again."""
        self.parts: list[tuple[Spool, Shipper]] = []
        self._sources: list[tuple[str, Path]] = []
        root = settings.root or settings.state
        if settings.worker not in {None, 0}:
            return
        for number in range(max(1, settings.count), MOST):
            if not spool_of(root, number).is_dir():
                continue
            folder = state_of(root, number)
            spool = Spool(folder / "spool", limits_of(settings))
            spool.open(seen)
            shipper = Shipper(settings, spool, folder / "shipped.json")
            self.parts.append((spool, shipper))
            self._sources.append((f"tidemill/serving/{settings.instance}-{number}", folder / "left"))

    async def run(self, house: House) -> None:
        """Ship until cancelled; then nothing is left but to have said so."""
        async with asyncio.TaskGroup() as group:
            for (spool, shipper), (source, note) in zip(self.parts, self._sources, strict=True):
                group.create_task(shipper.run())
                if not note.exists():
                    group.create_task(self._take_leave(house, spool, shipper, source, note))
            await asyncio.Event().wait()

    async def _take_leave(self, house: House, spool: Spool, shipper: Shipper, source: str, note: Path) -> None:
        """Behind the last record of the worker, of each pipeline: from here on nobody waits for its progress."""
        waiting = {name: tally.floor_us for name, tally in spool.tallies.items() if tally.floor_us is not None}
        while waiting:
            for name in waiting.keys() & house.desks.keys():
                spool.append(house.desks[name].timers(waiting.pop(name), source=source, reason="left"))
                shipper.wake()
            await asyncio.sleep(LOOK_S)
        note.touch()  # noqa: ASYNC240 - one call
        _log.info("%s has left: %d records", source, spool.end)
