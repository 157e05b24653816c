"""The partition of a key is the one that Kafka's own clients choose."""

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from tidemill_serving.spool import partition_of


@given(st.binary(max_size=300), st.integers(1, 5000))
def test_keys_of_every_length(key: bytes, partitions: int) -> None:
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions
