"""Where effects go: outcomes to their topic, then position, state and decisions to Postgres in one transaction."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaProducer

from tidemill_contracts import Envelope, topic
from tidemill_contracts.events import Outcome, Timer, encode
from tidemill_contracts.ids import derived_id
from tidemill_monitoring import store
from tidemill_monitoring.domain import state
from tidemill_monitoring.domain.merge import OrderedMerge
from tidemill_monitoring.domain.monitor import Decision, Monitor
from tidemill_monitoring.domain.read import Record
from tidemill_runtime.dlq import dead_letter
from tidemill_runtime.errors import Later
from tidemill_runtime.postgres import Pool

SOURCE = "/services/monitoring"
ACK_DEADLINE_S = 30.0
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class LogAndStore:
    """The sink of one merge task: `following` is the task's own table of next unread offsets."""

    prefix: str
    pool: Pool
    producer: AIOKafkaProducer
    generation: int
    merge: OrderedMerge
    monitor: Monitor
    following: dict[tuple[str, int], int]
    pending: list[Outcome]

    async def publish(self, outcomes: Sequence[Outcome]) -> None:
        """Write outcomes in order and wait for the acks. A repeat has the same number, so readers drop it."""
        name = topic("outcomes", self.monitor.spec.name, prefix=self.prefix)
        sent = []
        for outcome in outcomes:
            envelope = encode(
                outcome, id=str(derived_id("outcome", outcome.pipeline, outcome.seq)), source=SOURCE,
                time_us=outcome.labelled_us, subject=outcome.key, causation=outcome.label_event,
                origin=(0, outcome.seq, 0), seq=outcome.seq,
            )  # fmt: skip
            sent.append(
                await self.producer.send(
                    name, value=envelope.data, key=outcome.key.encode(), headers=envelope.headers(), partition=0
                )
            )
        try:
            async with asyncio.timeout(ACK_DEADLINE_S):
                await asyncio.gather(*sent)
        except TimeoutError:
            msg = f"outcomes of {self.monitor.spec.name} were not acknowledged within {ACK_DEADLINE_S:.0f} s"
            raise Later(msg) from None
        self.pending.extend(outcomes)

    async def commit(self, decisions: Sequence[Decision]) -> None:
        """Make everything up to here durable at once; the snapshot, taken before the first await, is of one moment."""
        added, removed = self.monitor.join.take_changes()
        places = {place: self.merge.resume(place, following) for place, following in self.following.items()}
        point = store.Checkpoint(
            released_until_us=self.merge.released_until_us,
            state=state.dump(self.monitor),
            positions={place: offset for place, (offset, _) in places.items()},
            progress={place: found for place, (_, found) in places.items() if found.writers},
            added=added,
            removed=removed,
            outcomes=[(o.seq, o.prediction_id, o.label_event, *o.label_position) for o in self.pending],
            metrics=self.monitor.segments.take_changed(),
            rivals=self.monitor.rivals.take_changed(),
            decisions=[(d.event_id, d.at_us, d.event, self._envelope(d)) for d in decisions],
        )
        self.pending.clear()
        await store.save(self.pool, self.prefix, self.monitor.spec.name, self.generation, point)

    async def dead_letter(self, record: Record, reason: str) -> None:
        """Put a record that can never be read aside with its reason; the merge goes on."""
        name, key, value, headers = dead_letter(record, group="monitoring", reason="unreadable", error=reason)
        await self.producer.send_and_wait(name, value=value, key=key, headers=headers)

    async def declare_gone(self, place: tuple[str, int], writer: str, time_us: int) -> None:
        """Write down that a writer of a partition is silent: whoever reads the log stops waiting for it there."""
        name, partition = place
        pipeline = self.monitor.spec.name
        body = Timer(source=pipeline, time_us=time_us, reason="silent", writer=writer)
        identity = str(derived_id("silent", pipeline, partition, writer, time_us, self.following[place]))
        envelope = encode(body, id=identity, source=SOURCE, time_us=time_us)
        _log.warning("%s/%d: %s says nothing; the others are waited for alone", name, partition, writer)
        async with asyncio.timeout(ACK_DEADLINE_S):
            await self.producer.send_and_wait(
                name, value=envelope.data, headers=envelope.headers(), partition=partition
            )

    def _envelope(self, decision: Decision) -> Envelope:
        return encode(
            decision.event, id=str(decision.event_id), source=SOURCE, time_us=decision.at_us,
            subject=self.monitor.spec.name, causation=None if decision.cause is None else str(decision.cause),
            traceparent=decision.trace,
        )  # fmt: skip
