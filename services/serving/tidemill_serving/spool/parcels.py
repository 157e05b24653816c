"""A stretch of the spool as batches for Kafka: what goes where."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from tidemill_runtime.batches import Packed
from tidemill_serving.spool.scanning import PARTITION
from tidemill_serving.spool.slabs import Opening, Slab

BATCH_BYTES = 256 * 1024
"""Of what goes to a partition at a time; as much as aiokafka would put together."""
Groups = dict[tuple[str, int], NDArray[np.int64]]
"""Topic and partition to rows of a slab, in their order."""


def is_shipped(opening: Opening) -> bool:
    """Answers to requests over Kafka go there with the requests' offsets, by who answered them."""
    return opening.kind != "bulk"


def by_place(slab: Slab, wanted: Callable[[Opening], bool] = is_shipped) -> tuple[Groups, dict[str, int]]:
    """The records of each partition, in their order, of those that are wanted; and the predictions of each pipeline."""
    openings, numbers = slab.openings()
    predictions: dict[str, int] = {}
    for opening, count in zip(openings, np.bincount(numbers).tolist(), strict=True):
        if opening.kind == "prediction":
            predictions[opening.pipeline] = predictions.get(opening.pipeline, 0) + count
    topics = list(dict.fromkeys(opening.topic for opening in openings))
    topic = np.array([topics.index(opening.topic) for opening in openings])[numbers]
    order = np.lexsort((slab.table[:, PARTITION], topic))  # which is stable
    are_wanted = [wanted(opening) for opening in openings]
    if not all(are_wanted):
        order = order[np.array(are_wanted)[numbers[order]]]
    if not len(order):
        return {}, predictions
    places = np.stack((topic, slab.table[:, PARTITION]), 1)[order]
    starts = np.flatnonzero(np.any(np.diff(places, axis=0, prepend=-1), axis=1))
    groups = {
        (topics[number], partition): rows
        for (number, partition), rows in zip(places[starts].tolist(), np.split(order, starts[1:]), strict=True)
    }
    return groups, predictions


def batches(slab: Slab, rows: NDArray[np.int64], *, transactional: bool = False) -> Iterator[Packed]:
    """The records of a partition as whole batches, timed now; what is too large for one is one by itself."""
    now_ms = int(time.time() * 1000)
    for records, count in slab.frame(rows, BATCH_BYTES):
        yield Packed(records, count, transactional=transactional, times_ms=(now_ms, now_ms), compressed=False)
