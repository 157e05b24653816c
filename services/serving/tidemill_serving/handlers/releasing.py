"""Takes releases: fetches, examines, opens and stages them, in the order of their epochs, off the path of requests."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import NamedTuple, Protocol

from pydantic import ValidationError

from tidemill_contracts.envelope import Envelope, EnvelopeError, read_envelope
from tidemill_contracts.events import Released
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Later, Never
from tidemill_runtime.telemetry import current_traceparent, processing
from tidemill_serving.domain.desk import Desk
from tidemill_serving.domain.house import House
from tidemill_serving.domain.plan import UnservableError
from tidemill_serving.domain.releases import Cause, Kept, Order, digests_of
from tidemill_serving.handlers import opening

_BOTH = 2
"""The release that answers, and the one that stands in for it."""
_log = logging.getLogger(__name__)


class Models(opening.Models, Protocol):
    """Opens models by digest, and keeps what releases on hand name."""

    def keep(self, digests: Iterable[str]) -> None:
        """Forget every other model; waits for the disk."""


class Record(Protocol):
    """What is read of a Kafka record."""

    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def offset(self) -> int: ...


class Arrived(NamedTuple):
    """A release, and the event that brought it."""

    released: Released
    envelope: Envelope


Pending = dict[Order, Arrived]


class Releaser:
    """One at a time: a release that is refused leaves the earlier ones as they are."""

    def __init__(
        self, house: House, models: Models, *, topic: str, progress: Callable[[], None], caught_up: asyncio.Event
    ) -> None:
        """`topic` is where releases come from; `caught_up` is set while the replica holds what Kafka held."""
        self._topic = topic
        self._house, self._models, self._progress, self._caught_up = house, models, progress, caught_up
        self._pending: dict[str, Pending] = {}
        self._unservable: dict[str, Pending] = {}
        self._news = asyncio.Event()
        self.settled = asyncio.Event()

    def on_records(self, _topic: str, _partition: int, records: "list[Record]") -> None:
        """Note the releases of a batch."""
        for record in records:
            try:
                if record.value is not None:
                    envelope = read_envelope(record.headers, record.value)
                    self._note(Arrived(Released.read(envelope.data), envelope))
            except (EnvelopeError, ValidationError) as error:
                self._house.counts.bad_records += 1
                _log.warning("offset %d of the releases cannot be read: %s", record.offset, error)

    def _note(self, arrived: Arrived) -> None:
        released = arrived.released
        self._pending.setdefault(released.pipeline, {})[released.epoch, released.sequence] = arrived
        self.wake()

    def reconsider(self) -> None:
        """The pipeline files have changed: releases that wait for one, or did not fit the last one, are looked at."""
        for pipeline, releases in self._unservable.items():
            self._pending.setdefault(pipeline, {}).update(releases)
        self._unservable.clear()
        self.wake()

    def wake(self) -> None:
        """There may be something to do."""
        self.settled.clear()
        self._news.set()

    async def run(self, may_start: Awaitable[object]) -> None:
        """Take releases until cancelled, beginning when event time is known, so that old ones need not be opened."""
        await may_start
        backoff = Backoff()
        while True:
            self._news.clear()
            is_done = True
            for pipeline in list(self._pending):
                desk = self._house.desks.get(pipeline)
                if desk is not None:
                    is_done = await self._take_all(desk, self._pending[pipeline]) and is_done
            if not self._news.is_set():
                self.settled.set()  # also when a model cannot be fetched: what is on hand must go on answering
            if is_done:
                backoff.reset()
                await self._news.wait()
            else:
                await backoff.wait()

    async def _take_all(self, desk: Desk, pending: Pending) -> bool:
        """Stage what may still answer; false when something must be tried again."""
        is_done = True
        for order in self._sequence(desk, pending):
            try:
                if desk.champion.is_news(order):
                    await self._stage(desk, pending[order])
            except Later as error:
                _log.warning("epoch %d of %s waits: %s", order[0], desk.spec.name, error)
                is_done = False
                continue
            except UnservableError as error:
                self._unservable.setdefault(desk.spec.name, {})[order] = pending[order]
                self._refuse(desk, order[0], str(error))
            except (ValueError, Never) as error:
                self._refuse(desk, order[0], str(error) or type(error).__name__)
            pending.pop(order, None)
        return is_done

    def _sequence(self, desk: Desk, pending: Pending) -> list[Order]:
        """Those whose time has come, highest first: lower ones matter only if it is refused; then the others."""
        watermark = desk.watermark_us(self._house.replica)
        waiting = [
            order
            for order, (released, _) in pending.items()
            if released.effective_at_us is not None and (watermark is None or watermark < released.effective_at_us)
        ]
        return sorted(pending.keys() - waiting, reverse=True) + sorted(waiting)

    async def _stage(self, desk: Desk, arrived: Arrived) -> None:
        envelope = arrived.envelope
        with processing(self._topic, "serving", [envelope.traceparent] if envelope.traceparent else []):
            spec = desk.files.get(arrived.released.spec, desk.spec)
            loaded = await opening.load(self._models, arrived.released, spec)
            loaded.cause = Cause(envelope.id, envelope.correlation, current_traceparent(), envelope.traceparent)
        await self._caught_up.wait()  # a view that has just changed is being read again
        desk.champion.stage(loaded)
        self._progress()
        await asyncio.to_thread(self._models.keep, self._wanted())

    def _refuse(self, desk: Desk, epoch: int, reason: str) -> None:
        self._house.counts.refused_releases += 1
        desk.refused[epoch] = reason
        _log.error("epoch %d of %s is refused: %s", epoch, desk.spec.name, reason)

    def _wanted(self) -> set[str]:
        """The models of releases on hand, and of those that a start without anything may need."""
        wanted: set[str] = set()
        for desk in self._house.desks.values():
            champion = desk.champion
            on_hand = [found for found in (champion.active, champion.previous, *champion.staged) if found is not None]
            epochs = {loaded.released.epoch for loaded in on_hand}
            wanted = wanted.union(*(loaded.digests() for loaded in on_hand))
            older = (item.released for item in desk.history if item.released.epoch not in epochs)
            wanted = wanted.union(*map(digests_of, older))
        return wanted

    async def restore(self, kept: Kept, desk: Desk) -> None:
        """Open what answered before the process ended: the newest that can be opened, and the one before it."""
        opened = []
        for item in kept.releases:
            try:
                opened.append(await opening.load(self._models, item.released, item.spec))
            except (ValueError, Never, Later) as error:
                _log.error("epoch %d of %s cannot be restored: %s", item.released.epoch, kept.spec.name, error)
            if len(opened) == _BOTH:
                break
        if opened:
            desk.champion.restore(opened[0], opened[1] if len(opened) == _BOTH else None)
        desk.swaps, desk.history = list(kept.swaps), list(kept.releases)
