"""How much one tick answers: a part where clients shall read meanwhile, its share of the time where others press."""

from typing import Any, cast

import pytest

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.handlers.jobs import Job, count_of, queries_of
from tidemill_serving.handlers.pacing import LEAST, LONGEST_S, PARTS, SHORTEST_S, TELLING, TOGETHER, Pace, split

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


def job(numbers: range, *, is_whole: bool = False) -> Job[Any]:
    """Queries that are numbers here, each with a link that is its number too."""
    return Job(cast("Any", "desk"), list(numbers), lambda _: None, cast("Any", list(numbers)), is_whole)


def test_what_came_together_is_taken_in_parts_but_for_instances_of_one_request() -> None:
    jobs = [job(range(20)), job(range(20, 50), is_whole=True), job(range(50, 60)), job(range(60, 65))]
    first, rest = split(jobs, 10)
    assert [list(part.queries) for part in first] == [list(range(10))]
    assert [len(part.queries) for part in rest] == [10, 30, 10, 5]
    second, rest = split(rest, 12)
    assert [list(part.queries) for part in second] == [list(range(10, 20)), list(range(20, 50))]
    assert all(list(part.links or ()) == list(part.queries) for part in (*first, *second, *rest))
    third, rest = split(rest, 15)
    assert (queries_of(third), rest) == (list(range(50, 65)), [])


def test_of_a_great_many_a_tick_takes_a_part() -> None:
    first, rest = split([job(range(8 * PARTS)), job(range(80, 80 + 8 * PARTS))], 1)
    assert (count_of(first), count_of(rest)) == (16, 16 * PARTS - 16)
