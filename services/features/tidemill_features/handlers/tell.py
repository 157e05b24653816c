"""Tells readers what has changed, beside the reading: one transaction at a time, what comes meanwhile is the next.

What was applied but not told yet is not lost by a crash: checkpoints only hold what was told, the rest is read again.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client import Counter, Histogram

from tidemill_features.domain.encode import Outgoing
from tidemill_features.domain.letter import Letter, Letters, Mail
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.handlers.checkpoint import Checkpointer
from tidemill_features.handlers.ports import Log
from tidemill_runtime import telemetry

OUTPUTS = Counter("tidemill_features_outputs", "Vectors, deletions and watermarks written.", ["partition"])
TRANSACTIONS = Counter("tidemill_features_transactions", "Transactions committed.", ["partition"])
SECONDS = Histogram(
    "tidemill_features_tell_seconds", "From the end of the lingering to the commit of what changed.",
    buckets=(0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0),
)  # fmt: skip
_MOST_UNTOLD = 40_000
"""Records: the more there are, the more of them are of a key that is told once. Only who lags behind sees as many."""
_CROWDED_OUT, _RELIEF_S, _LOOK_S = 2.0, 5.0, 0.01
_MANY = 200  # vectors: a millisecond's work, and ten times what it costs to ask a thread


class Teller:
    """Owned by one task; `check` raises what went wrong since, and then the task has to go."""

    def __init__(  # noqa: PLR0913 - keyword-only, each a collaborator
        self, partition: int, state: AggregatePartition, *, log: Log, checkpointer: Checkpointer, linger_s: float,
        settle: Callable[[], Awaitable[Sequence[Letter]]],
    ) -> None:  # fmt: skip
        """`settle` applies what was only read, and returns the dead letters of that."""
        self._partition, self._state, self._linger_s = partition, state, linger_s
        self._log, self._checkpointer, self._settle = log, checkpointer, settle
        self.is_writing = False
        self._letters: list[Letter] = []
        self._untold = 0
        self._wake, self._room = asyncio.Event(), asyncio.Event()
        self._stopping = False
        self.settling = asyncio.Lock()
        """Held while records are read and not yet applied: a checkpoint of such a state would lose them."""
        self._loop = asyncio.ensure_future(self._run())

    def note(self, records: int, letters: Sequence[Letter]) -> None:
        """So many records were applied, and these letters go out beside what they changed."""
        self._letters += letters
        self._untold += records
        self._checkpointer.count(records)
        self._wake.set()

    async def room(self) -> None:
        """Wait while too much is untold or in memory; raises what went wrong."""
        while self._untold > _MOST_UNTOLD and not self._loop.done():
            self._room.clear()
            await self._room.wait()
        if self._state.crowding() > _CROWDED_OUT:
            await self._relief()
        self.check()

    async def _relief(self) -> None:
        """Wait until a checkpoint has ended, after which keys leave the memory; not for ever: the store may be down."""
        loop, stored = asyncio.get_running_loop(), self._checkpointer.stored
        end = loop.time() + _RELIEF_S
        while self._checkpointer.stored == stored and loop.time() < end and not self._loop.done():
            await asyncio.sleep(_LOOK_S)
            self.check()

    def check(self) -> None:
        """Raises what ended the telling or the storing; wakes both when a checkpoint is due."""
        if self._loop.done():
            self._loop.result()
        self._checkpointer.check()
        if self._is_due():
            self._wake.set()

    def _is_due(self) -> bool:
        """Whether it is time for a checkpoint: also, whatever the time, when memory is crowded."""
        is_crowded = self._state.crowding() > 1
        return self._checkpointer.is_free() if is_crowded else self._checkpointer.is_due()

    async def _run(self) -> None:
        try:
            while not self._stopping:
                await self._wake.wait()
                if self._linger_s and not self._stopping:
                    await asyncio.sleep(self._linger_s)
                self._wake.clear()
                await self._round(store=self._is_due())
        finally:
            self._room.set()

    async def _round(self, *, store: bool) -> None:
        """Tell everything; what is captured for storing in the same instant is stored once it is told."""
        async with self.settling:
            self._letters += await self._settle()
            untold, letters, self._letters = self._untold, self._letters, []
            outputs = self._state.drain()
            captures = self._state.capture() if store else []
        if letters or outputs:
            self.is_writing = True
            with SECONDS.time():
                await self._write(letters, outputs)
            self.is_writing = False
            OUTPUTS.labels(self._partition).inc(sum(out.records for out in outputs))
            TRANSACTIONS.labels(self._partition).inc()
        self._untold -= untold
        self._room.set()
        if store:
            self._checkpointer.save(captures)

    async def _write(self, letters: Sequence[Letter], outputs: Sequence[Outgoing]) -> None:
        mail = Mail([letters, *await _written(outputs)])
        if not telemetry.enabled():
            await self._log.write(mail)
            return
        contexts: dict[str, list[str]] = {}
        for letter in letters:
            contexts.setdefault(letter.topic, []).extend(telemetry.traceparents((letter,)))
        for out in outputs:
            contexts.setdefault(out.encoder.topic, []).extend(out.contexts())
        with telemetry.sending(contexts):
            await self._log.write(mail)

    async def finish(self) -> None:
        """Tell and store everything; raises what prevents it."""
        self._stopping = True
        self._wake.set()
        await self._loop
        await self._checkpointer.finish()
        await self._round(store=True)
        await self._checkpointer.finish()

    async def drop(self) -> None:
        """Stop without another word."""
        self._loop.cancel()
        await asyncio.wait({self._loop})
        await self._checkpointer.drop()


async def _written(outputs: Sequence[Outgoing]) -> list[Letters]:
    """As records; many are written in a thread, beside the reading."""
    if sum(out.records for out in outputs) < _MANY:
        return [out.letters() for out in outputs]
    return await asyncio.to_thread(lambda: [out.letters() for out in outputs])
