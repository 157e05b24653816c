"""Which release answers: fencing by epoch, staging by event time."""

from dataclasses import dataclass
from itertools import permutations

import pytest

from tidemill_serving.domain.releases import Champion


@dataclass(frozen=True)
class Release:
    order: tuple[int, int]
    effective_at_us: int | None = None
    previous_epoch: int = 0


def test_a_release_without_a_time_answers_at_once_and_a_lower_epoch_never() -> None:
    champion = Champion[Release]()
    third, second = Release((3, 0)), Release((2, 0))
    assert champion.stage(third)
    assert champion.advance(None) is third
    assert not champion.stage(second)
    assert not champion.stage(third)
    assert (champion.advance(10), champion.active) == (None, third)


def test_a_staged_release_waits_for_its_time() -> None:
    champion = Champion[Release]()
    first, second = Release((1, 0)), Release((2, 0), effective_at_us=100, previous_epoch=1)
    champion.stage(first)
    champion.advance(None)
    champion.stage(second)
    for early in (None, 0, 99):
        assert champion.advance(early) is None
    assert champion.advance(100) is second
    assert champion.previous is first
    assert champion.staged == []


def test_a_later_release_without_a_time_ends_the_wait_of_lower_ones() -> None:
    champion = Champion[Release]()
    for release in (Release((1, 0)), Release((2, 0), 100, 1), Release((3, 0), None, 2)):
        champion.stage(release)
    champion.advance(0)
    assert champion.active == Release((3, 0), None, 2)
    assert champion.advance(1000) is None


def test_weights_within_an_epoch_move_by_their_count() -> None:
    champion = Champion[Release]()
    champion.stage(Release((1, 0)))
    champion.stage(Release((1, 1)))
    champion.advance(None)
    assert champion.active == Release((1, 1))
    assert not champion.stage(Release((1, 0)))


@pytest.mark.parametrize("order", list(permutations(range(1, 5))))
def test_the_highest_epoch_answers_in_whatever_order_releases_arrive(order: tuple[int, ...]) -> None:
    champion = Champion[Release]()
    for epoch in order:
        before = champion.active
        champion.stage(Release((epoch, 0)))
        champion.advance(None)
        assert champion.active is not None
        assert before is None or champion.active.order >= before.order
    assert champion.active == Release((4, 0))


def test_a_first_release_waits_even_when_nothing_answers() -> None:
    champion = Champion[Release]()
    champion.stage(Release((1, 0), effective_at_us=100))
    assert champion.advance(50) is None
    assert champion.advance(100) is not None


def test_a_release_whose_predecessor_is_lost_answers_early() -> None:
    champion = Champion[Release]()
    champion.stage(Release((5, 0), effective_at_us=100, previous_epoch=4))
    assert champion.advance(50) is not None


def test_a_restart_begins_with_what_answered() -> None:
    champion = Champion[Release]()
    champion.restore(Release((4, 0)), Release((3, 0)))
    assert not champion.stage(Release((4, 0)))
    assert champion.stage(Release((5, 0)))
