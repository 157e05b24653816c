"""One key with nine tenths of all events: exact like every other, and it costs no more than many keys."""

import random
import time

import pytest
from features_cases import PARTITIONS, Stream, departures, views
from features_play import check_against_backfill, direct, play, routed

EVENTS = 6000


def heated(*, share: float) -> Stream:
    """Events of which so many are of one flight of one carrier, all in its partition."""
    chance, stream = random.Random(5), departures(EVENTS, partitions=1)
    for event in stream.all:
        if chance.random() < share:
            event.body |= {"flight": "F0", "carrier": "AA", "delay": abs(event.body["delay"] or 1.0)}
    return Stream({0: stream.by_partition[0], **{p: [] for p in range(1, PARTITIONS)}})


@pytest.mark.parametrize("name", ["by-flight", "by-carrier"])
def test_a_hot_key_is_exact_and_costs_no_more(name: str) -> None:
    view, seconds = views()[name], {}
    for share in (0.0, 0.9, 0.0, 0.9):  # the first of each compiles and warms
        stream = heated(share=share)
        inputs = routed(view, stream, size=500) if view.repartitioned else direct(view, stream)
        began = time.process_time()
        readers = play(view, inputs, size=500)
        seconds[share] = time.process_time() - began
        assert check_against_backfill(view, stream, readers) >= 3  # carriers
    assert seconds[0.9] < 2 * seconds[0.0] + 0.2
