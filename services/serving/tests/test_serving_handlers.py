"""What goes on beside the requests, with everything outside faked: following views, taking releases."""

import pytest
from serving_cases import HOUR_US, T0_US, pipeline, released
from serving_parts import SPEC, Parts, Record, caught_up, ended, running
from serving_stack import until

from tidemill_contracts import view_topic
from tidemill_contracts.events import FeatureVector

pytestmark = pytest.mark.anyio


@pytest.fixture
async def parts() -> Parts:
    made = Parts()
    await made.apply(SPEC)
    return made


async def test_requests_see_the_replica_when_it_has_caught_up(parts: Parts) -> None:
    assert parts.tails[0].topics == [view_topic("features", *place) for place in parts.desk.places]
    assert not parts.follower.caught_up.is_set()
    parts.mark(T0_US)
    assert parts.desk.watermark_us(parts.house.replica) is None
    await caught_up(parts)
    assert parts.desk.watermark_us(parts.house.replica) == T0_US


async def test_a_view_that_changes_is_read_again_from_the_start(parts: Parts) -> None:
    await caught_up(parts)
    await parts.apply(SPEC)
    assert len(parts.tails) == 1
    changed = SPEC.model_copy(
        update={"views": {"by-carrier": SPEC.views["by-carrier"].model_copy(update={"where": "delay > 0"})}}
    )
    await parts.apply(changed)
    assert parts.tails[0].stopped
    assert not parts.follower.caught_up.is_set()
    await caught_up(parts)
    assert len(parts.house.replica.tables) == 2


async def test_a_pipeline_that_is_gone_is_not_served(parts: Parts) -> None:
    await parts.follower.on_pipelines({})
    assert parts.house.desks == {}


async def test_garbage_in_a_view_is_counted_and_its_neighbours_apply(parts: Parts) -> None:
    await caught_up(parts)
    event = FeatureVector(
        view="by-carrier", version=SPEC.view_version("by-carrier"), entity="AA", at_us=1, revision=1, values=[1.0, 2.0],
        positions={},
    )  # fmt: skip
    good = Record(b"AA", event.model_dump_json().encode())
    parts.tails[0].on_records(parts.tails[0].topics[0], 0, [Record(b"x", b"\xff"), good, Record(None, b"{}")])
    assert parts.house.counts.bad_records == 2
    assert parts.house.replica.entities(["by-carrier"]) == {"by-carrier": 1}


async def test_only_releases_that_can_still_answer_are_opened_at_the_start(parts: Parts) -> None:
    parts.release(*(released(SPEC, epoch, "a" * 64) for epoch in range(1, 5)))
    parts.release(released(SPEC, 5, "b" * 64, effective_at_us=T0_US + HOUR_US))
    parts.mark(T0_US)
    task = await running(parts)
    await caught_up(parts)
    await until(parts.releaser.settled.is_set, "settled")
    assert (parts.epoch, parts.swaps) == (4, [4])
    assert [found.released.epoch for found in parts.desk.champion.staged] == [5]
    parts.mark(T0_US + HOUR_US)
    assert (parts.epoch, parts.swaps) == (5, [4, 5])
    await ended(task)


async def test_a_release_that_cannot_be_fetched_holds_up_nothing_but_itself(parts: Parts) -> None:
    parts.models.missing.add("a" * 64)
    task = await running(parts)
    await caught_up(parts)
    parts.release(released(SPEC, 1, "a" * 64))
    await until(parts.releaser.settled.is_set, "settled")
    assert parts.epoch == 0
    parts.models.missing.clear()
    await until(lambda: parts.epoch == 1, "fetched after all")
    await ended(task)


async def test_a_refused_release_and_garbage_leave_the_champion(parts: Parts) -> None:
    parts.models.refused.add("b" * 64)
    task = await running(parts)
    await caught_up(parts)
    parts.release(released(SPEC, 1, "a" * 64))
    await until(lambda: parts.epoch == 1, "the first release")
    parts.releaser.on_records("releases", 0, [Record(b"x", b"garbage"), Record(b"flights", None)])
    parts.release(released(SPEC, 2, "b" * 64), released(SPEC, 3, "c" * 64).model_copy(update={"features": ["nothing"]}))
    await until(lambda: set(parts.desk.refused) == {2, 3}, "refused")
    assert parts.epoch == 1
    parts.release(released(SPEC, 4, "b" * 64))
    await until(lambda: set(parts.desk.refused) == {2, 3, 4}, "refused")
    parts.release(released(SPEC, 5, "d" * 64, shadow="b" * 64), released(SPEC, 6, "b" * 64))
    await until(lambda: parts.epoch == 5, "the highest that is good; a bad shadow is left out")
    assert parts.desk.champion.active is not None
    assert parts.desk.champion.active.shadows == []
    assert parts.models.kept == {"a" * 64, "d" * 64}
    await ended(task)


async def test_a_release_that_is_ahead_of_its_pipeline_file_waits_for_it(parts: Parts) -> None:
    task = await running(parts)
    await caught_up(parts)
    changed = pipeline(extra="    half: distance / 2\n")
    parts.release(released(changed, 1, "a" * 64))
    await until(lambda: set(parts.desk.refused) == {1}, "refused")
    await parts.apply(changed)
    await until(lambda: parts.epoch == 1, "taken with its file")
    await ended(task)
