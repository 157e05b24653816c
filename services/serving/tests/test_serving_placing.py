"""The partition of a key is the one that Kafka's own clients choose."""

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from tidemill_serving.spool import partitions_of


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.integers(1, 5000))
def test_keys_of_every_length(keys: list[bytes], partitions: int) -> None:
    assert partitions_of(keys, partitions).tolist() == [(murmur2(key) & 0x7FFFFFFF) % partitions for key in keys]
