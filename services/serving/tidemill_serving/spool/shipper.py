"""Sends the spool to Kafka in order, each record once.

One idempotent producer waits out restarts of the broker by itself. After a crash it is not known which of the last
records had landed: the ends of their partitions are read, where each record of a spool carries its origin (identity of
the segment, number, 0), and what is there is not sent again.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tidemill_contracts.headers import packed_headers, varint
from tidemill_runtime.backoff import Backoff, Rarely
from tidemill_runtime.batches import Packed, framed
from tidemill_runtime.kafka import close_client, open_consumer, open_producer
from tidemill_runtime.settings import ServiceSettings
from tidemill_serving.domain.entries import Entry
from tidemill_serving.spool.log import Spool
from tidemill_serving.spool.reader import SpoolReader

ORIGIN = "tm_origin"
BATCH = 1000
"""Records read and handed over at a stretch: more would keep requests waiting."""
LEAST_LINGER_S, LINGER_S, MANY = 0.01, 0.05, 250
"""Between two batches that are not full, the least and from `MANY` records on: no answer waits for the log, and few
large writes cost far less than many; but what comes seldom is waited for by those who read it."""
NOTED_S = 0.25
"""Between two notes of the position while records flow: each replaces a file, for which some file systems wait."""
PROBE_S = 2.0
SILENT_S = 5.0
BATCH_BYTES = 256 * 1024
"""Of what goes to a partition at a time; as much as aiokafka would put together."""
Numbered = tuple[int, int, Entry]
Groups = dict[tuple[str, int], list[Numbered]]
"""Topic and partition to records."""
_NAME = varint(len(ORIGIN)) + ORIGIN.encode()
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
            batch = reader.batch(BATCH)
            if not batch:
                if not self._is_noted:
                    await self._note_aside()
                await self._wait(producer)
                continue
            groups = _by_place(batch)
            await self._reconcile(groups)
            await self._send(producer, groups)
            self._acknowledge(batch, reader.number)
            if asyncio.get_running_loop().time() - self._noted_at > NOTED_S:
                await self._note_aside()
            self._spool.trim(self.position)
            backoff.reset()
            if len(batch) < BATCH:
                share = min(1.0, len(batch) / MANY)
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

    async def _send(self, producer: AIOKafkaProducer, groups: Groups) -> None:
        """Hand the records over as whole batches, in order per partition, and wait until Kafka has them."""
        waiting: list[tuple[int, asyncio.Future[Any]]] = []
        for place, group in groups.items():
            landed = self._landed[place]
            left = [one for one in group if one[1] > landed.get(one[0], -1)] if landed else group
            waiting += [
                (batch.record_count(), await producer.send_batch(batch, place[0], partition=place[1]))
                for batch in _batches(left)
            ]
            await asyncio.sleep(0)  # requests first
        done = await asyncio.gather(*(future for _, future in waiting))
        for (count, _), sent in zip(waiting, done, strict=True):
            offsets = self._shipped.offsets.setdefault(sent.topic, {})
            offsets[sent.partition] = max(sent.offset + count, offsets.get(sent.partition, 0))

    def _acknowledge(self, batch: Sequence[Numbered], position: int) -> None:
        for _, _, entry in batch:
            if entry.kind == "prediction":
                self.counts[entry.pipeline] = self.counts.get(entry.pipeline, 0) + 1
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
        consumer = await open_consumer(self._settings)
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
            for record in (await consumer.getmany(tp, timeout_ms=500)).get(tp, []):
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


def _by_place(batch: Iterable[Numbered]) -> Groups:
    """The records of each partition, in their order."""
    groups: Groups = {}
    for one in batch:
        entry = one[2]
        place = entry.topic, entry.partition
        group = groups.get(place)
        if group is None:
            groups[place] = [one]
        else:
            group.append(one)
    return groups


def _batches(group: Iterable[Numbered]) -> Iterator[Packed]:
    """The records of a partition as whole batches, timed now; what is too large for one is one by itself."""
    parts: list[bytes] = []
    size, now_ms = 0, int(time.time() * 1000)
    for identity, number, entry in group:
        head = entry.head if isinstance(entry.head, bytes) else packed_headers(entry.head)
        if parts and size + len(entry.value) > BATCH_BYTES:
            yield Packed(b"".join(parts), len(parts), transactional=False, times_ms=(now_ms, now_ms), compressed=False)
            parts, size = [], 0
        origin = b"%d:%d:0" % (identity, number)
        parts.append(framed(len(parts), entry.key, entry.value, head, b"%b%b%b" % (_NAME, varint(len(origin)), origin)))
        size += len(parts[-1])
    if parts:
        yield Packed(b"".join(parts), len(parts), transactional=False, times_ms=(now_ms, now_ms), compressed=False)


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
