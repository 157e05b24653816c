"""How much one tick answers: a part where clients shall read meanwhile, its share of the time where others press."""

import pytest

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.handlers.pacing import LEAST, LONGEST_S, SHORTEST_S, TELLING, TOGETHER, Pace

ANSWER_S = 0.0001


class Hand:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def crowd(pace: Pace) -> int:
    """As many as there is room for."""
    for count in range(100_000):
        try:
            pace.admit(1.0, is_held=False)
        except RefusedError:
            return count
    raise AssertionError("there is room for everybody")


def taught(hand: Hand) -> Pace:
    """A pace that knows what an answer costs, with an empty queue."""
    pace = Pace(hand)
    pace.admit(TELLING, is_held=False)
    pace.together()
    pace.take(TELLING, is_all=True)
    hand.now += TELLING * ANSWER_S
    pace.learn(TELLING, int(TELLING))
    return pace


@pytest.mark.parametrize(
    ("reading_s", "answering_s"), [(0.001, SHORTEST_S), (3 * SHORTEST_S, 1.5 * SHORTEST_S), (1.0, LONGEST_S)]
)
def test_where_others_are_refused_a_tick_answers_many(reading_s: float, answering_s: float) -> None:
    hand = Hand()
    pace = taught(hand)
    assert crowd(pace) >= LEAST
    hand.now += reading_s  # of requests that were refused, most of them
    assert pace.together() == pytest.approx(answering_s / ANSWER_S, abs=1)


def test_where_nobody_is_refused_a_tick_answers_a_part_however_long_it_waited() -> None:
    hand = Hand()
    pace = taught(hand)
    for _ in range(2 * TOGETHER):
        pace.admit(1.0, is_held=False)
    hand.now += 0.02
    assert pace.together() == TOGETHER
