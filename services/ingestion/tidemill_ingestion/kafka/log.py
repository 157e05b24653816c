"""Writing to topics: one idempotent producer at a time, replaced when it breaks, with bounded waits and memory."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from tidemill_ingestion.domain.outgoing import Outgoing
from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.errors import Later
from tidemill_runtime.health import Health
from tidemill_runtime.kafka import close_client, open_producer
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
            self._producer = producer
            self._health.set(self._name, ok=True)
            try:
                await asyncio.wait_for(self._broken.wait(), RENEW_S)
            except TimeoutError:
                pass
            finally:
                self._producer = None
                await close_client(producer)

    async def write(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Write all and return (partition, offset) of each; raises Busy at once, or Later after the time-out.

        After Later the outcome is unknown: some of the records may still arrive.
        """
        if not records:
            return []
        size = sum(record.size() for record in records)
        if self._waiting and self._waiting + size > self._max_bytes:
            raise Busy(f"{self._waiting} bytes wait for Kafka")
        producer = self._producer
        if producer is None:
            raise Later("there is no connection to Kafka")
        futures: list[asyncio.Future[Any]] = []
        self._waiting += size
        try:
            async with asyncio.timeout(self._timeout):
                await self._hand_over(producer, records, futures)
                await asyncio.wait(futures)
            return [(done.partition, done.offset) for done in (future.result() for future in futures)]
        except TimeoutError as error:
            raise Later(f"Kafka did not take the records within {self._timeout:g} s") from error
        except Exception as error:  # a fatal producer error may also be an assertion
            self._failed(error)
            raise Later(f"Kafka: {error!r}") from error
        finally:
            self._release(size, futures)

    async def _hand_over(self, producer: Any, records: Sequence[Outgoing], futures: list[asyncio.Future[Any]]) -> None:  # noqa: ANN401
        send = producer.send
        for record in records:
            futures.append(  # noqa: PERF401 - on a time-out the caller needs those that were handed over
                await send(
                    record.topic, record.value, record.key, record.partition, record.timestamp_ms, record.headers
                )
            )

    def _failed(self, error: Exception) -> None:
        transient = isinstance(error, KafkaTimeoutError) or (isinstance(error, KafkaError) and error.retriable)
        if not transient and not isinstance(error, MessageSizeTooLargeError):
            if self._speak():
                _log.warning("%s: the producer is replaced: %r", self._name, error)
            self._broken.set()

    def _release(self, size: int, futures: Sequence[asyncio.Future[Any]]) -> None:
        """Give the bytes back once the client holds none of them any more."""
        pending = [future for future in futures if not future.done()]
        if not pending:
            self._waiting -= size
            return
        left = len(pending)

        def done(future: asyncio.Future[Any]) -> None:
            nonlocal left
            if not future.cancelled():
                future.exception()  # it was reported as a time-out; asyncio should not report it again
            left -= 1
            if not left:
                self._waiting -= size

        for future in pending:
            future.add_done_callback(done)
