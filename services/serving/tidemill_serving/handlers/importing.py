"""Follows imported models: opens what the registry announced, and what was switched on or off through serving."""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol
from uuid import uuid4

from pydantic import ValidationError

from tidemill_contracts.envelope import EnvelopeError, read_envelope
from tidemill_contracts.events import ModelImported, ModelSwitched, encode
from tidemill_runtime.backoff import Backoff
from tidemill_runtime.errors import Later, Never
from tidemill_runtime.telemetry import current_traceparent
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.entries import Entry
from tidemill_serving.domain.imported import LOADING, READY, UNAVAILABLE, Graph, Imported, refuse_unknown
from tidemill_serving.handlers.journal import Journal

SWITCHED_S = 20.0
"""How long a switch may take to come back through the log and be done."""
_log = logging.getLogger(__name__)


class Graphs(Protocol):
    """Opens models by digest."""

    async def open_graph(self, digest: str) -> Graph:
        """Raises ValueError for a model that must not be used, Later when it cannot be fetched now."""

    def keep(self, digests: Iterable[str]) -> None:
        """Forget every other model."""


class Store(Protocol):
    """What is known of imported models on disk."""

    def save_imported(self, models: list[tuple[str, int, str]], unloaded: list[str]) -> None: ...

    def load_imported(self) -> tuple[list[tuple[str, int, str]], list[str]]: ...


class Record(Protocol):
    """What is read of a Kafka record."""

    @property
    def headers(self) -> Iterable[tuple[str, bytes]]: ...

    @property
    def value(self) -> bytes | None: ...

    @property
    def offset(self) -> int: ...


class Importer:
    """Keeps the catalogue. The log is the truth of switches: every worker and replica does what it says, in order."""

    def __init__(self, graphs: Graphs, store: Store, journal: Journal, topic: str) -> None:
        """`topic` is where models are announced."""
        self._graphs, self._store, self._journal, self._topic = graphs, store, journal, topic
        self._house = journal.house
        self._news, self._moved = asyncio.Event(), asyncio.Condition()
        self._awaited: set[str] = set()

    def on_records(self, _topic: str, _partition: int, records: "list[Record]") -> None:
        """Note what a batch says."""
        for record in records:
            if record.value is None:
                continue
            try:
                self._note(read_envelope(record.headers, record.value).type, record.value)
            except (EnvelopeError, ValidationError) as error:
                self._house.counts.bad_records += 1
                _log.warning("offset %d of the imported models cannot be read: %s", record.offset, error)
        self._keep()
        self._news.set()

    def _note(self, kind: str, value: bytes) -> None:
        catalogue = self._house.catalogue
        if kind == ModelImported.TYPE:
            event = ModelImported.read(value)
            catalogue.add(event.model, event.version, event.digest)
        elif kind == ModelSwitched.TYPE:
            switch = ModelSwitched.read(value)
            catalogue.switch(switch.model, loaded=switch.loaded)
            self._awaited.discard(str(switch.switch_id))

    def restore(self) -> None:
        """Begin with what is known on disk."""
        models, unloaded = self._store.load_imported()
        catalogue = self._house.catalogue
        for name, version, digest in models:
            catalogue.add(name, version, digest)
        for name in unloaded:
            catalogue.switch(name, loaded=False)
        self._news.set()

    async def run(self) -> None:
        """Open what waits until cancelled."""
        backoff = Backoff()
        while True:
            self._news.clear()
            is_done = True
            for found in self._house.catalogue.waiting():
                is_done = await self._open(found) and is_done
            async with self._moved:
                self._moved.notify_all()
            if is_done:
                backoff.reset()
                await self._news.wait()
            else:
                await backoff.wait()

    async def _open(self, found: Imported) -> bool:
        """Open one; false when it must be tried again."""
        try:
            graph = await self._graphs.open_graph(found.digest)
        except Later as error:
            _log.warning("the imported model %s %d waits: %s", found.name, found.version, error)
            found.reason = "it cannot be fetched now"
            return False
        except (ValueError, Never) as error:
            found.state, found.reason = UNAVAILABLE, str(error) or type(error).__name__
            _log.error("the imported model %s %d is refused: %s", found.name, found.version, found.reason)
            return True
        if found.state == LOADING:  # it may have been switched off meanwhile
            found.state, found.reason, found.graph = READY, "", graph
            _log.info("the imported model %s %d answers now", found.name, found.version)
        return True

    def _keep(self) -> None:
        catalogue = self._house.catalogue
        models = [(m.name, m.version, m.digest) for versions in catalogue.models.values() for m in versions.values()]
        self._store.save_imported(models, sorted(catalogue.unloaded))
        self._graphs.keep(catalogue.digests())

    async def switch(self, name: str, *, loaded: bool) -> None:
        """Load or unload a model here and everywhere; returns once it is done here.

        Raises RefusedError: 404 for an unknown model, 400 where none of its versions can be opened, 503 where the log
        does not take it or does not bring it back in time.
        """
        if name not in self._house.catalogue.models:
            raise refuse_unknown(name)
        if self._house.degraded:
            raise RefusedError(503, "degraded", "Kafka is away: a switch could not be told to others")
        identity = self._write(name, loaded=loaded)
        try:
            async with asyncio.timeout(SWITCHED_S):
                await self._until(lambda: identity not in self._awaited and not self._is_loading(name))
        except TimeoutError:
            raise RefusedError(503, "not yet", "it is asked for, and not done yet") from None
        finally:
            self._awaited.discard(identity)
        states = self._house.catalogue.models[name].values()
        if loaded and not any(found.state == READY for found in states):
            reason = next(iter(found.reason for found in states), "")
            raise RefusedError(400, "refused", f"no version can be opened: {reason}")

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with self._moved:
            while not condition():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), 1.0)

    def _is_loading(self, name: str) -> bool:
        return any(found.state == LOADING for found in self._house.catalogue.models[name].values())

    def _write(self, name: str, *, loaded: bool) -> str:
        identity, now_us, source = uuid4(), self._journal.now_us(), self._journal.source
        event = ModelSwitched(model=name, loaded=loaded, switch_id=identity)
        envelope = encode(
            event, id=str(identity), source=source, time_us=now_us, subject=name, traceparent=current_traceparent()
        )
        self._awaited.add(str(identity))
        entry = Entry("switch", name, self._topic, 0, name.encode(), envelope.data, envelope.headers(), now_us)
        if not self._journal.append([entry]):
            self._awaited.discard(str(identity))
            raise RefusedError(503, "full", "the log takes no record now")
        return str(identity)
