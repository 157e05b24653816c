"""What Kafka has of the releases, and how much of it has been taken."""

from collections.abc import Callable
from typing import NamedTuple

from tidemill_runtime.kafka import end_offsets
from tidemill_runtime.tail import Tail


class ReleaseNews(NamedTuple):
    """`tidemill_serving.handlers.fencing.News` over the reader of the topic."""

    kafka: str
    topic: str
    tail: Tail
    settled: Callable[[], bool]

    async def ends(self) -> dict[int, int]:
        return await end_offsets(self.kafka, self.topic)

    def position(self, partition: int) -> int:
        return self.tail.position(self.topic, partition)

    def is_settled(self) -> bool:
        return self.settled()
