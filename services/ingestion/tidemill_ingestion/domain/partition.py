"""Which partition a key belongs to: murmur2, as Kafka's own clients choose it."""

import struct
from functools import lru_cache

_WORDS = struct.Struct("<I")
_SEED = 0x9747B28C
_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=65_536)  # keys are few and events many; the hash takes microseconds in Python
def partition_of(key: bytes, partitions: int) -> int:
    """The partition of `key` among `partitions`, the same as the Java client's default partitioner gives."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2 with Kafka's seed, 32 bits (org.apache.kafka.common.utils.Utils.murmur2)."""
    whole = len(data) & ~3
    state = _SEED ^ len(data)
    for (word,) in _WORDS.iter_unpack(data[:whole]):
        k = word * _M & _MASK
        k = (k ^ (k >> 24)) * _M & _MASK
        state = (state * _M & _MASK) ^ k
    if whole != len(data):
        state = (state ^ int.from_bytes(data[whole:], "little")) * _M & _MASK
    state = (state ^ (state >> 13)) * _M & _MASK
    return state ^ (state >> 15)
