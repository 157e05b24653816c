"""Who reads what in a group: a member gets whole partition numbers, of all topics."""

from collections.abc import Iterable, Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


class NumberAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka ships no types
    """Partition p of every topic goes to the same member, also where topics have different numbers of partitions.

    Kafka's range assignment cuts each topic by itself: of topics with 3 and 6 partitions, two members would both get a
    partition 2, and what owns a partition number would be fenced by its other owner for ever.
    """

    name = "number"
    version = 0

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Numbers in runs of equal length by the order of the members' ids, which begin with their static names."""
        topics = sorted({topic for metadata in members.values() for topic in metadata.subscription})
        partitions = {topic: sorted(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        numbers = sorted({number for each in partitions.values() for number in each})
        given = {}
        for place, member in enumerate(sorted(members)):
            mine = set(_share(numbers, place, len(members)))
            kept = [(topic, [number for number in partitions[topic] if number in mine]) for topic in topics]
            given[member] = ConsumerProtocolMemberAssignment(cls.version, [item for item in kept if item[1]], b"")
        return given

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What a member says of itself when it joins."""
        return ConsumerProtocolMemberMetadata(cls.version, sorted(topics), b"")

    @classmethod
    def on_assignment(cls, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Nothing is remembered."""


def _share(numbers: list[int], place: int, members: int) -> list[int]:
    """The run of one of so many members; the first ones get one more where it does not divide."""
    each, more = divmod(len(numbers), members)
    start = place * each + min(place, more)
    return numbers[start : start + each + (place < more)]
