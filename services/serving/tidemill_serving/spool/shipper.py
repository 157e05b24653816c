"""Sends the spool to Kafka in order, each record once.

One idempotent producer waits out restarts of the broker by itself. After a crash it is not known which of the last
records had landed: the ends of their partitions are read, where each record of a spool carries its origin (identity of
the segment, number, 0), and what is there is not sent again.
"""

import asyncio
import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.kafka import close_client, open_consumer, open_producer
from tidemill_runtime.settings import ServiceSettings
from tidemill_serving.domain.entries import ORIGIN
from tidemill_serving.spool.log import Spool
from tidemill_serving.spool.parcels import Groups, batches, by_place
from tidemill_serving.spool.reader import SpoolReader
from tidemill_serving.spool.slabs import Slab

BATCH = 1000
"""Records read and handed over at a stretch: more would keep requests waiting."""
LEAST_LINGER_S, LINGER_S, MANY = 0.01, 0.05, 250
"""Between two batches that are not full, the least and from `MANY` records on: no answer waits for the log, and few
large writes cost far less than many; but what comes seldom is waited for by those who read it."""
NOTED_S = 0.25
"""Between two notes of the position while records flow: each replaces a file, for which some file systems wait."""
PROBE_S = 2.0
SILENT_S = 5.0
LOOKED_AT = 100
"""Records at a stretch when it is looked what has landed: thousands made a started worker's requests wait for 60 ms."""
_log = logging.getLogger(__name__)


class Shipped(msgspec.Struct):
    """Records below `position` are in Kafka; ours after them lie at or behind `offsets[topic][partition]`."""

    position: int = 0
    offsets: dict[str, dict[int, int]] = {}


class Shipper:
    """Follows the spool to its end for ever. `counts` are predictions per pipeline that Kafka has acknowledged."""

    def __init__(self, settings: ServiceSettings, spool: Spool, state: Path) -> None:
        """`state` is the file that remembers the position; the spool must be open."""
        self._settings, self._spool, self._file = settings, spool, state
        known = _load(state)
        # Without the file nothing is known of what has landed: the topics are read from their beginning.
        self._blind, self._shipped = known is None and spool.end > spool.segments[0].first, known or Shipped()
        first, end = spool.segments[0].first, spool.end
        self._shipped.position = min(max(self._shipped.position, first), end)
        self.counts = spool.shipped_predictions(self._shipped.position)
        self._landed: dict[tuple[str, int], dict[int, int]] = {}
        self._wake = asyncio.Event()
        self._heard_at = self._noted_at = float("-inf")
        self._is_noted, self._writing = True, threading.Lock()
        self._speak = Rarely()
        spool.trim(self._shipped.position)

    @property
    def position(self) -> int:
        """The number of the first record that Kafka has not acknowledged."""
        return self._shipped.position

    @property
    def reachable(self) -> bool:
        """Whether the broker has answered within the last few seconds."""
        return asyncio.get_running_loop().time() - self._heard_at < SILENT_S

    def wake(self) -> None:
        """There are new records."""
        self._wake.set()

    async def run(self) -> None:
        """Ship until cancelled."""
        backoff = Backoff()
        while True:
            producer = None
            try:
                producer = await open_producer(self._settings, compression=None)  # the broker does that
                self._heard()
                self._landed.clear()
                await self._follow(producer, backoff)
            except asyncio.CancelledError:
                self._note()
                if producer is not None:
                    await close_client(producer, timeout_s=1.0)
                raise
            except Exception as error:  # noqa: BLE001 - after a fatal producer error of any kind the answer is a new one
                if self._speak():
                    _log.warning("records wait in the spool: %r", error)
                if producer is not None:
                    # What it still holds lands or fails before the ends of the topics are read.
                    await close_client(producer, timeout_s=60.0)
                await backoff.wait()

    async def _follow(self, producer: AIOKafkaProducer, backoff: Backoff) -> None:
        reader = SpoolReader(self._spool, self.position)
        while True:
            self._wake.clear()
            slab = reader.slab(BATCH)
            if slab is None:
                if not self._is_noted:
                    await self._note_aside()
                await self._wait(producer)
                continue
            groups, predictions = by_place(slab)
            await self._reconcile(groups)
            await self._send(producer, slab, groups)
            self._acknowledge(predictions, slab.end)
            if asyncio.get_running_loop().time() - self._noted_at > NOTED_S:
                await self._note_aside()
            self._spool.trim(self.position)
            backoff.reset()
            if len(slab) < BATCH:
                share = min(1.0, len(slab) / MANY)
                await asyncio.sleep(LEAST_LINGER_S + share * (LINGER_S - LEAST_LINGER_S))

    async def _wait(self, producer: AIOKafkaProducer) -> None:
        """Until there is something to ship; meanwhile ask the broker now and then whether it is there."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PROBE_S):
                await self._wake.wait()
            return
        async with asyncio.timeout(PROBE_S):
            await producer.client.fetch_all_metadata()
        self._heard()

    async def _send(self, producer: AIOKafkaProducer, slab: Slab, groups: Groups) -> None:
        """Hand the records over as whole batches, in order per partition, and wait until Kafka has them."""
        waiting: list[tuple[int, asyncio.Future[Any]]] = []
        for place, rows in groups.items():
            landed = self._landed[place].get(slab.identity, -1)
            left = rows if landed < slab.first else rows[rows > landed - slab.first]
            waiting += [
                (batch.record_count(), await producer.send_batch(batch, place[0], partition=place[1]))
                for batch in batches(slab, left)
            ]
            await asyncio.sleep(0)  # requests first
        done = await asyncio.gather(*(future for _, future in waiting))
        for (count, _), sent in zip(waiting, done, strict=True):
            offsets = self._shipped.offsets.setdefault(sent.topic, {})
            offsets[sent.partition] = max(sent.offset + count, offsets.get(sent.partition, 0))

    def _acknowledge(self, predictions: dict[str, int], position: int) -> None:
        for pipeline, count in predictions.items():
            self.counts[pipeline] = self.counts.get(pipeline, 0) + count
        self._shipped.position, self._is_noted = position, False
        self._heard()

    def _note(self) -> None:
        """An older position costs a restart some reading, no more."""
        try:
            self._save()
        except OSError as error:
            self._not_noted(error)

    async def _note_aside(self) -> None:
        """As `_note`, beside the loop: some file systems wait for the disk before they replace a file."""
        raw, self._is_noted = msgspec.json.encode(self._shipped), True
        self._noted_at = asyncio.get_running_loop().time()
        try:
            await asyncio.to_thread(self._write, raw)
        except OSError as error:
            self._not_noted(error)

    def _not_noted(self, error: OSError) -> None:
        """A full disk, which trimming mends."""
        self._is_noted = False
        if self._speak():
            _log.warning("the shipping position was not noted: %s", error)

    def _heard(self) -> None:
        self._heard_at = asyncio.get_running_loop().time()

    async def _reconcile(self, groups: Groups) -> None:
        """Before the first send to a partition: find out which of our records it has, from the last known place on."""
        places = groups.keys() - self._landed.keys()
        if not places:
            return
        # Ours are in no transaction; behind one that is open yet the committed ones would end.
        consumer = await open_consumer(self._settings, isolation="read_uncommitted")
        try:
            partitions = [TopicPartition(*place) for place in sorted(places)]
            consumer.assign(partitions)
            async with asyncio.timeout(30.0):
                ends = await consumer.end_offsets(partitions)
                for tp in partitions:
                    self._landed[tp.topic, tp.partition] = await self._landed_in(consumer, tp, ends[tp])
        except BaseException:
            for place in places:
                self._landed.pop(place, None)
            raise
        finally:
            await close_client(consumer, timeout_s=1.0)
        self._secure()

    def _secure(self) -> None:
        """Before the first send: whatever lands from now on must lie at or behind the offsets that a restart will know.

        A full disk, which only sending mends, must not stop it: without the file a restart reads the topics from their
        beginning, which is as safe, and the file's own room may be what is needed to write it again.
        """
        try:
            self._save()
        except OSError as error:
            _log.warning("the shipping position cannot be noted, a restart would read the topics whole: %s", error)
            self._file.with_suffix(".part").unlink(missing_ok=True)
            self._file.unlink(missing_ok=True)

    async def _landed_in(self, consumer: AIOKafkaConsumer, tp: TopicPartition, end: int) -> dict[int, int]:
        """Highest number of each spool identity in a partition; nothing of ours lies before the known offset."""
        offsets = self._shipped.offsets.setdefault(tp.topic, {})
        start = offsets.setdefault(tp.partition, 0 if self._blind else end)
        highest: dict[int, int] = {}
        consumer.seek(tp, start if start <= end else 0)
        while await consumer.position(tp) < end:
            await asyncio.sleep(0)  # who has them already does not wait, and requests would
            for record in (await consumer.getmany(tp, timeout_ms=500, max_records=LOOKED_AT)).get(tp, []):
                origin = _origin(record.headers)
                if origin is not None:
                    identity, number = origin
                    highest[identity] = max(number, highest.get(identity, -1))
        return highest

    def _save(self) -> None:
        self._write(msgspec.json.encode(self._shipped))
        self._noted_at, self._is_noted = asyncio.get_running_loop().time(), True

    def _write(self, raw: bytes) -> None:
        with self._writing:  # at a stop a note may still be under way
            beside = self._file.with_suffix(".part")
            beside.write_bytes(raw)
            beside.replace(self._file)


def _origin(headers: Iterable[tuple[str, bytes]]) -> tuple[int, int] | None:
    for name, value in headers:
        parts = (value or b"").split(b":") if name == ORIGIN else []
        if len(parts) == 3 and all(part.isdigit() for part in parts):  # noqa: PLR2004 - partition, offset, ordinal
            return int(parts[0]), int(parts[1])
    return None


def _load(file: Path) -> Shipped | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=Shipped)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        _log.exception("the shipping position cannot be read; records are compared with the topics instead")
        return None
