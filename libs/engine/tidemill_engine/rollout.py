"""Whom a key belongs to, and what several members answer together: both can be computed again from a release alone."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_POINTS = 2**64


def point(salt: str, key: str) -> int:
    """Where a key lies in [0, 2^64): the first 8 bytes, as a big-endian number, of BLAKE2b over salt, a zero and key.

    A key has an arm if it lies below the arm's share of 2^64, so that a larger share only adds keys.
    """
    return int.from_bytes(blake2b(f"{salt}\0{key}".encode(), digest_size=8).digest(), "big")


def bound(share: float) -> int:
    """The point below which keys belong to an arm with this share, from 0 to 1."""
    return int(share * _POINTS)


def mix(scores: Sequence[Floats], weights: Sequence[float]) -> Floats:
    """Weighted mean [N] of the members' scores [N] each, NaN where no member has one; a NaN takes no part.

    Products and weights are added in the members' order, in float64, then divided once and kept within [0, 1]: the
    same loop over plain floats gives the same bits, however rows are cut into batches.
    """
    total, weighed = np.zeros(len(scores[0])), np.zeros(len(scores[0]))
    for weight, own in zip(weights, scores, strict=True):
        known = own == own  # noqa: PLR0124 - not NaN
        weighed = weighed + np.where(known, weight * own, 0.0)
        total = total + np.where(known, weight, 0.0)
    mean: Floats = np.divide(weighed, total, out=np.full(len(total), np.nan), where=total > 0)
    return np.clip(mean, 0.0, 1.0)


def mix_one(scores: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """`mix` of one row, as a reader of a logged prediction does it; None for a member without a score, and for none."""
    total = weighed = 0.0
    for weight, own in zip(weights, scores, strict=True):
        if own is not None:
            weighed += weight * own
            total += weight
    return min(max(weighed / total, 0.0), 1.0) if total > 0 else None
