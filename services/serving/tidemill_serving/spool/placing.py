"""Kafka's default partition of a key, compiled: its hash in Python costs as much as reading a request.

murmur2 as Kafka's clients compute it; aiokafka's is the oracle in the tests.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tidemill_runtime.compiled import compiled

Bytes = NDArray[np.uint8]
_U = np.uint32
_SEED, _M, _POSITIVE = _U(0x9747B28C), _U(0x5BD1E995), 0x7FFFFFFF
_R, _8, _13, _15, _16 = (_U(bits) for bits in (24, 8, 13, 15, 16))


@compiled
def _hash(raw: Bytes, start: int, end: int) -> int:
    found, at = _SEED ^ _U(end - start), start
    while at + 4 <= end:
        word = _U(raw[at]) | _U(raw[at + 1]) << _8 | _U(raw[at + 2]) << _16 | _U(raw[at + 3]) << _R
        word = _U(word * _M)
        found = _U(found * _M) ^ _U(_U(word ^ word >> _R) * _M)
        at += 4
    left = end - at
    if left > 2:  # noqa: PLR2004 - bytes behind the last word
        found ^= _U(raw[at + 2]) << _16
    if left > 1:
        found ^= _U(raw[at + 1]) << _8
    if left > 0:
        found = _U((found ^ _U(raw[at])) * _M)
    found = _U((found ^ found >> _13) * _M)
    return int(found ^ found >> _15)


@compiled
def _place(raw: Bytes, places: NDArray[np.int64], partitions: int) -> None:
    """In place of where each key ends, its partition."""
    start = 0
    for number in range(len(places)):
        end = places[number]
        places[number] = (_hash(raw, start, end) & _POSITIVE) % partitions
        start = end


def partitions_of(keys: Sequence[bytes], partitions: int) -> NDArray[np.int64]:
    """Of each key the partition that Kafka's own clients choose."""
    places = np.fromiter(map(len, keys), np.int64, len(keys)).cumsum()
    _place(np.frombuffer(b"".join(keys), np.uint8), places, partitions)
    return places


def warm_up() -> None:
    """Compile, or find it compiled."""
    partitions_of([b""], 1)
