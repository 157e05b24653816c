"""Writing to topics: one idempotent producer at a time, replaced when it breaks, with bounded waits and memory."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from tidemill_ingestion.domain.outgoing import Sendable
from tidemill_ingestion.kafka.lane import Lane, Part
from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.errors import Later
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import MAX_REQUEST_BYTES, close_client, open_producer
from tidemill_runtime.settings import ServiceSettings

RENEW_S = 12 * 3600.0
"""A producer's sequence numbers are 31 bits per partition; half a day stays far below."""
_log = logging.getLogger(__name__)


class Busy(Later):
    """More bytes wait for the broker than this process may hold."""


class Log:
    """Writes records in the order of the calls per partition, each call until the broker's acknowledgement."""

    def __init__(
        self, settings: ServiceSettings, health: Health, *, name: str, max_bytes: int, timeout_s: float
    ) -> None:
        self._settings, self._health, self._name = settings, health, name
        self._max_bytes, self._timeout = max_bytes, timeout_s
        self._waiting = 0
        self._producer: Any = None
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._broken = asyncio.Event()
        self._speak = Rarely()

    async def run(self) -> None:
        """Keep a producer open until cancelled."""
        backoff = Backoff()
        while True:
            self._health.set(self._name, ok=False, reason="no connection to Kafka yet")
            try:
                producer = await open_producer(self._settings, linger_ms=0)
            except Later as error:
                self._health.set(self._name, ok=False, reason=str(error))
                await backoff.wait()
                continue
            self._broken.clear()
            self._producer, self._lanes = producer, {}
            self._health.set(self._name, ok=True)
            try:
                await asyncio.wait_for(self._broken.wait(), RENEW_S)
            except TimeoutError:
                pass
            finally:
                self._producer = None
                await close_client(producer)

    async def write(self, records: Sequence[Sendable]) -> list[tuple[int, int]]:
        """Write all and return (partition, offset) of each; raises Busy at once, or Later after the time-out.

        After Later the outcome is unknown: some of the records may still arrive.
        """
        if not records:
            return []
        sizes = [record.size() for record in records]
        size = sum(sizes)
        if max(sizes) > MAX_REQUEST_BYTES:
            raise Later(f"Kafka: {MessageSizeTooLargeError(f'a record of {max(sizes)} bytes')!r}")
        if self._waiting and self._waiting + size > self._max_bytes:
            raise Busy(f"{self._waiting} bytes wait for Kafka")
        if self._producer is None:
            raise Later("there is no connection to Kafka")
        parts = self._put(records)
        self._waiting += size
        try:
            await asyncio.wait([part.done for part in parts.values()], timeout=self._timeout)
            return self._places(records, parts)
        except Later:
            raise
        except Exception as error:  # a fatal producer error may also be an assertion
            self._failed(error)
            raise Later(f"Kafka: {error!r}") from error
        finally:
            self._release(size, parts)

    def _put(self, records: Sequence[Sendable]) -> dict[Lane, Part]:
        groups: dict[tuple[str, int], list[Sendable]] = {}
        for record in records:
            groups.setdefault((record.topic, record.partition), []).append(record)
        parts: dict[Lane, Part] = {}
        for place, group in groups.items():
            lane = self._lanes.get(place)
            if lane is None:
                lane = self._lanes[place] = Lane(self._producer, *place)
            parts[lane] = part = Part(group)
            lane.put(part)
        return parts

    def _places(self, records: Sequence[Sendable], parts: Mapping[Lane, Part]) -> list[tuple[int, int]]:
        """(partition, offset) of each record, in order."""
        if not all(part.done.done() for part in parts.values()):
            raise Later(f"Kafka did not take the records within {self._timeout:g} s")
        offsets = {(p.records[0].topic, p.records[0].partition): iter(p.done.result()) for p in parts.values()}
        return [(record.partition, next(offsets[record.topic, record.partition])) for record in records]

    def _failed(self, error: Exception) -> None:
        transient = isinstance(error, KafkaTimeoutError) or (isinstance(error, KafkaError) and error.retriable)
        if not transient and not isinstance(error, MessageSizeTooLargeError):
            if self._speak():
                _log.warning("%s: the producer is replaced: %r", self._name, error)
            self._broken.set()

    def _release(self, size: int, parts: Mapping[Lane, Part]) -> None:
        """Give the bytes back once the client holds none of them any more."""
        pending = [part.done for lane, part in parts.items() if not part.done.done() and not lane.drop(part)]
        if not pending:
            self._waiting -= size
            return
        left = len(pending)

        def done(future: asyncio.Future[list[int]]) -> None:
            nonlocal left
            if not future.cancelled():
                future.exception()  # it was reported as a time-out; asyncio should not report it again
            left -= 1
            if not left:
                self._waiting -= size

        for future in pending:
            future.add_done_callback(done)
