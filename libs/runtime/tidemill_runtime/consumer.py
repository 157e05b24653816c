"""aiokafka's consumer without three traps: slow partial fetches, unreadable records, commits that nobody waits for."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest

ColumnsBy = Literal["compiled", "plain"]
"""Which loop finds a record's parts: the compiled one is ten times as fast and takes 130 MB of memory."""
FETCH_WAIT_MS = 250
"""Each idle consumer asks this often; the client's and the broker's work at 50 ms was a third of what a loop costs."""
PARTIAL_WAIT_MS = 10
"""A fetch that leaves a partition out, because what came of it is not taken yet, is the only one under way: what
arrives there waits until the fetch ends. Under load this was most of the time from an event to its features."""
PATIENT_BYTES = 1024 * 1024
"""What a patient consumer's fetch waits for, no longer than an idle one: four fetches a second instead of hundreds."""
STEP_MS = 1000
LEAVE_S = 1.0
_log = logging.getLogger(__name__)


class SteadyConsumer(AIOKafkaConsumer):  # type: ignore[misc]  # aiokafka ships no types
    """As its base, but no fetch keeps a partition waiting for long, and a header's name need not be text.

    A record with a header's name that is not UTF-8 comes without headers, key and value.

    Kafka's protocol says that names are UTF-8, and brokers do not check it. The base raises when it reads such a
    record, keeps its position before it, and drops what it had read for other partitions in the same call. It cannot
    read on inside that batch, so what its writer put behind the record comes empty too; batches of others come whole.
    """

    def __init__(
        self, *topics: str, columns: ColumnsBy | None = None, patient: bool = False, **options: Any,  # noqa: ANN401 - the base's
    ) -> None:  # fmt: skip
        """With `columns`, `getmany` gives RecordColumns, where each record is read for itself, made by that loop.

        A `patient` one lets records wait for more, up to a quarter of a second: for readers whom nobody waits for.
        """
        fixed = {"fetch_max_wait_ms": FETCH_WAIT_MS, "fetch_min_bytes": PATIENT_BYTES if patient else 1}
        super().__init__(*topics, **(options | fixed))
        self._columns, self._partial_wait_ms = columns, FETCH_WAIT_MS if patient else PARTIAL_WAIT_MS

    async def start(self) -> None:
        """As the base."""
        await super().start()
        if self._columns is not None:
            _read_columns(self, self._columns)
        fetcher = self._fetcher
        plan = fetcher._get_actions_per_node  # noqa: SLF001 - where a fetch is made; there is no setting for it

        def planned(assignment: Any) -> Any:  # noqa: ANN401 - aiokafka ships no types
            left_out = any(tp in fetcher._records or assignment.state_value(tp).paused for tp in assignment.tps)  # noqa: SLF001
            fetcher._fetch_max_wait_ms = self._partial_wait_ms if left_out else FETCH_WAIT_MS  # noqa: SLF001
            return plan(assignment)

        fetcher._get_actions_per_node = planned  # noqa: SLF001 - see above
        if self._group_id is not None:
            _unheard(self._coordinator)

    async def leave(self) -> None:
        """Give up the partitions; `stop` must follow at once. May fail: then they wait until the session is over.

        The base keeps a static member's partitions for it. On a connection of its own, because on the group's a request
        to join may be waiting for the other members.
        """
        coordinator = self._coordinator
        member, node = coordinator.member_id, coordinator.coordinator_id
        if not member or node is None:
            return
        coordinator.member_id = JoinGroupRequest.UNKNOWN_MEMBER_ID  # ends the heartbeat
        # An answer on its way to the last one, or to a join, says that the member is unknown: the base would join again
        # as a new one, which nobody takes out of the group before its session is over.
        coordinator._do_rejoin_group = partial(_closed, coordinator)  # noqa: SLF001 - there is no setting for it
        with suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(LEAVE_S):
                await self._client.send(node, LeaveGroupRequest(coordinator.group_id, member))

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """As the base; raises what it raises, but UnicodeDecodeError."""
        before = self._positions(partitions)
        try:
            found: dict[TopicPartition, list[ConsumerRecord]] = await super().getmany(
                *partitions, timeout_ms=timeout_ms, max_records=max_records
            )
        except UnicodeDecodeError:
            for tp, position in before.items():
                self.seek(tp, position)
            return await self._step(before, max_records)
        return found

    async def getone(self, *partitions: TopicPartition) -> ConsumerRecord:
        """As the base; raises what it raises, but UnicodeDecodeError."""
        while True:
            try:
                return await super().getone(*partitions)
            except UnicodeDecodeError:
                for records in (await self._step(self._positions(partitions), 1)).values():
                    return records[0]

    def _positions(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Where reading goes on, of those partitions that are read."""
        subscription = self._subscription.subscription
        assignment = None if subscription is None else subscription.assignment
        if assignment is None:
            return {}
        states = {tp: assignment.state_value(tp) for tp in partitions or assignment.tps if tp in assignment.tps}
        return {tp: state.position for tp, state in states.items() if state.has_valid_position and not state.paused}

    async def _step(
        self, positions: dict[TopicPartition, int], max_records: int | None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """One record at a time, up to and over the one that cannot be read."""
        for tp in positions:
            found: list[ConsumerRecord] = []
            while max_records is None or len(found) < max_records:
                try:
                    batch = await super().getmany(tp, timeout_ms=STEP_MS if self._is_behind(tp) else 0, max_records=1)
                except UnicodeDecodeError:
                    found.append(await self._pass(tp))
                    break
                if not batch:
                    break
                found += batch[tp]
            if found:
                return {tp: found}
        return {}

    def _is_behind(self, tp: TopicPartition) -> bool:
        """Whether there is more to read, as far as is known."""
        end = self.highwater(tp)
        return end is None or end > self._positions([tp]).get(tp, end)

    async def _pass(self, tp: TopicPartition) -> ConsumerRecord:
        offset = await self.position(tp)
        self.seek(tp, offset + 1)
        _log.warning("%s/%s: a header's name at offset %d, or before it in its batch, is not UTF-8", *tp, offset)
        return ConsumerRecord(tp.topic, tp.partition, offset, 0, 0, None, None, None, -1, -1, ())


def _read_columns(consumer: SteadyConsumer, by: ColumnsBy) -> None:
    """Imports what not every process has: arrays, and for the compiled loop a compiler."""
    from tidemill_runtime.columns import read_columns  # noqa: PLC0415 - see above

    if by == "compiled":
        from tidemill_runtime.columns_compiled import frame  # noqa: PLC0415 - see above
    else:
        from tidemill_runtime.columns_plain import frame  # noqa: PLC0415 - see above
    read_columns(consumer, frame)


async def _closed(coordinator: Any, _subscription: object) -> bool:  # noqa: ANN401 - aiokafka ships no types
    """Join no group: wait for the end instead."""
    await asyncio.shield(coordinator._closing)  # noqa: SLF001 - as above
    return False


def _unheard(coordinator: Any) -> None:  # noqa: ANN401 - aiokafka ships no types
    """Let a commit whose caller was cancelled fail unheard.

    The base shields each attempt, so one under way goes on after the caller has gone; when the connection is then
    closed, its failure is nobody's, and the event loop reports it as an error of the program.
    """
    attempt = coordinator._do_commit_offsets  # noqa: SLF001 - there is no other way in

    def attempted(assignment: Any, offsets: Any) -> "asyncio.Task[None]":  # noqa: ANN401 - as above
        task: asyncio.Task[None] = asyncio.ensure_future(attempt(assignment, offsets))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    coordinator._do_commit_offsets = attempted  # noqa: SLF001 - as above
