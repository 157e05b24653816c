"""Kafka's default partition of a key, compiled: its hash in Python costs as much as reading a request.

murmur2 as Kafka's clients compute it; aiokafka's is the oracle in the tests.
"""

import numpy as np

from tidemill_runtime.compiled import compiled

_U = np.uint32
_SEED, _M, _POSITIVE = _U(0x9747B28C), _U(0x5BD1E995), 0x7FFFFFFF
_R, _8, _13, _15, _16 = (_U(bits) for bits in (24, 8, 13, 15, 16))


@compiled
def _hash(key: bytes) -> int:
    size = len(key)
    found, at = _SEED ^ _U(size), 0
    while at + 4 <= size:
        word = _U(key[at]) | _U(key[at + 1]) << _8 | _U(key[at + 2]) << _16 | _U(key[at + 3]) << _R
        word = _U(word * _M)
        found = _U(found * _M) ^ _U(_U(word ^ word >> _R) * _M)
        at += 4
    left = size - at
    if left > 2:  # noqa: PLR2004 - bytes behind the last word
        found ^= _U(key[at + 2]) << _16
    if left > 1:
        found ^= _U(key[at + 1]) << _8
    if left > 0:
        found = _U((found ^ _U(key[at])) * _M)
    found = _U((found ^ found >> _13) * _M)
    return int(found ^ found >> _15)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's own clients choose."""
    return int((_hash(key) & _POSITIVE) % partitions)


def warm_up() -> None:
    """Compile, or find it compiled."""
    _hash(b"")
