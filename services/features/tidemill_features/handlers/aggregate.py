"""The aggregator's task: one partition number of all inputs in, vectors of all views out, one transaction a poll."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from prometheus_client import Counter

from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.partition import AggregatePartition
from tidemill_features.domain.records import Record
from tidemill_features.domain.views import View
from tidemill_features.handlers.checkpoint import Checkpointer
from tidemill_features.handlers.ports import Checkpoints, FencedLog, Letter, Undertaker
from tidemill_runtime.errors import Later

RECORDS = Counter("tidemill_features_records", "Records read by the aggregator.", ["partition"])
VECTORS = Counter("tidemill_features_vectors", "Vectors, deletions and watermarks written.", ["partition"])


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a task is made of."""

    log: FencedLog
    store: Checkpoints
    undertaker: Undertaker
    every_s: float
    every_records: int


class AggregateTask:
    """Owns one partition number. A failed transaction ends the task; the next one starts from the last checkpoint."""

    def __init__(self, partition: int, views: Sequence[View], parts: Parts) -> None:
        self.partition, self.state = partition, AggregatePartition([])
        self._views, self._parts = views, parts
        self._checkpointer: Checkpointer | None = None

    async def open(self) -> Mapping[str, int]:
        """Fence the writer before, then the store, then restore: nobody can write behind what is read here."""
        await self._parts.log.open()
        owner = await self._parts.store.own(self.partition)
        views, offsets = [], dict[str, int]()
        for view in self._views:
            marks, entries = await self._parts.store.load(owner, view)
            views.append(ViewPartition.restored(view, self.partition, marks, entries))
            offsets[view.input_topic] = min(marks.next_offset, offsets.get(view.input_topic, marks.next_offset))
        self.state = AggregatePartition(views)
        for topic, offset in offsets.items():
            self.state.start_at(topic, offset)
        self._checkpointer = Checkpointer(
            self._parts.store, owner, every_s=self._parts.every_s, every_records=self._parts.every_records
        )
        return offsets

    async def process(self, batches: Mapping[str, Sequence[Record]]) -> None:
        """Apply, tell readers, store when due."""
        count = sum(len(records) for records in batches.values())
        rejected = self.state.take(batches)
        letters = self._parts.undertaker.bury(rejected, among=count)
        await self._tell(letters)
        RECORDS.labels(self.partition).inc(count)
        self._checkpoint(count)

    async def _tell(self, letters: list[Letter]) -> None:
        outputs = self.state.outputs()
        letters += [Letter(topic, self.partition, *output) for topic, output in outputs]
        if letters:
            await self._parts.log.write(letters)
            self.state.told(outputs)
            VECTORS.labels(self.partition).inc(len(outputs))

    def _checkpoint(self, count: int) -> None:
        if self._checkpointer is None:
            raise Later("the task is not open")
        self._checkpointer.count(count)
        self._checkpointer.step(self.state)

    async def idle(self) -> None:
        """Store what is due."""
        self._checkpoint(0)

    async def close(self, *, lost: bool) -> None:
        """Store everything, unless another owner may have it already."""
        checkpointer, self._checkpointer = self._checkpointer, None
        if checkpointer is not None:
            await (checkpointer.drop() if lost else checkpointer.finish(self.state))
        await self._parts.log.close()
