"""A view that the answering release reads cannot be taken away by applying a file without it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest
from registry_cases import DAY, a_version, applied, on_database

from tidemill_contracts.events import Member, PipelineApplied, Released, ReleaseReason
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_registry.api.pipelines import routes
from tidemill_registry.domain.champion import Moment, next_release
from tidemill_registry.domain.kept import kept_files, taken_away
from tidemill_registry.domain.review import Standing
from tidemill_registry.domain.views import missing_views
from tidemill_registry.store import StoreQueries, open_unit
from tidemill_runtime.http import HttpProblem
from tidemill_runtime.postgres import Pool

DIGEST = "0" * 64
FILE = """
version: 1
name: demo
sources: {clicks: {key: [user], fields: {user: {type: string}, bought: {type: boolean}}}}
entities: {user: {key: [user]}}
views:
  clicks: {source: clicks, entity: user, windows: {1h: {length: 1h}}, aggregations: [{function: count}]}
  others: {source: clicks, entity: user, windows: {1d: {length: 1d}}, aggregations: [{function: count}]}
request: {key: user, fields: {user: {type: string}}, features: {a: "1"}}
label: {source: clicks, join: user, expression: bought}
"""
OTHERS = FILE[FILE.index("  others:") : FILE.index("request:")]
SPEC = parse_pipeline(FILE.encode())


def standing(*features: str) -> Standing:
    """A pipeline whose release reads these features."""
    champion = Released(
        pipeline="demo", epoch=1, members=[Member(name="m", model=DIGEST, version=1)], views={},
        features=list(features), spec=DIGEST, policy=DIGEST, at_us=0, reason=ReleaseReason(kind="first"),
    )  # fmt: skip
    return Standing(SPEC, champion, frozen=False)


def test_only_what_the_release_reads_must_stay() -> None:
    without = parse_pipeline(FILE.replace(OTHERS, "").encode())
    assert missing_views(standing("clicks.count_1h", "request.a"), without) == []
    assert missing_views(standing("clicks.count_1h", "others.count_1d"), without) == ["others"]
    assert missing_views(standing("others.count_1d"), SPEC) == []
    changed = parse_pipeline(FILE.replace("length: 1d", "length: 2d").encode())
    assert missing_views(standing("others.count_1d"), changed) == [], "another version is a change, not a removal"
    assert missing_views(Standing(SPEC, None, frozen=False), without) == []
    assert missing_views(None, without) == []


def test_the_files_of_the_newest_two_releases_are_kept() -> None:
    assert kept_files([], "now") == []
    assert kept_files(["old"], "now") == ["old"]
    assert kept_files(["older", "old", "now"], "now") == ["old"]
    assert kept_files(["old", "now", "now"], "now") == []
    assert kept_files(["b", "a"], "now") == ["a", "b"]


def test_what_a_release_needs_of_its_file_must_stay() -> None:
    assert list(taken_away(SPEC, SPEC)) == []
    other = SPEC.model_copy(update={"partitions": SPEC.partitions + 1, "sources": {"views": SPEC.sources["clicks"]}})
    assert list(taken_away(SPEC, other)) == ["the source clicks", f"its {SPEC.partitions} partitions"]
    fields = {"visitor": SPEC.request.fields["user"]}
    other = SPEC.model_copy(update={"request": SPEC.request.model_copy(update={"fields": fields})})
    assert list(taken_away(SPEC, other)) == ["the request field user"]


class Unit:
    """A transaction that knows one standing."""

    def __init__(self) -> None:
        self.applied: list[PipelineSpec] = []

    async def lock(self, _pipeline: str) -> None: ...

    async def standing(self, _pipeline: str) -> Standing:
        return standing("others.count_1d")

    async def releases(self, _pipeline: str) -> list[Released]:
        return [champion] if (champion := standing("others.count_1d").champion) is not None else []

    async def file(self, _digest: str) -> PipelineSpec:
        return SPEC

    async def apply(self, spec: PipelineSpec) -> PipelineApplied:
        self.applied.append(spec)
        return PipelineApplied(pipeline=spec.name, revision=2, digest=spec.digest(), spec={})


class Fake:
    """A registry with one unit."""

    def __init__(self) -> None:
        self.known = Unit()

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[Unit]:
        yield self.known

    async def make_topics(self, _spec: PipelineSpec) -> None: ...

    async def imported(self, _name: str) -> bool:
        return False


class Request:
    """As much of a request as the route looks at."""

    def __init__(self, spec: PipelineSpec) -> None:
        self.path_params = {"pipeline": spec.name}


@pytest.mark.anyio
async def test_the_route_says_which_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Fake()
    put = routes(cast("Any", registry))[0].endpoint
    without = parse_pipeline(FILE.replace(OTHERS, "").encode())
    moved = SPEC.model_copy(update={"partitions": SPEC.partitions + 1})
    for spec, problem in (
        (without, "the release that answers reads others"), (moved, f"needs its {SPEC.partitions} partitions"),
        (SPEC, None),
    ):  # fmt: skip

        async def read(_request: Any, _kind: Any, spec: PipelineSpec = spec) -> PipelineSpec:  # noqa: ANN401 - not looked at
            return spec

        monkeypatch.setattr("tidemill_registry.api.pipelines.read_model", read)
        if problem is None:
            await put(cast("Any", Request(spec)))
        else:
            with pytest.raises(HttpProblem, match=problem) as refused:
                await put(cast("Any", Request(spec)))
            assert refused.value.status == 409
    assert registry.known.applied == [SPEC]


def test_a_file_is_announced_with_those_that_releases_on_hand_were_made_for(postgres_dsn: str) -> None:
    """And again when a release is the last that needed one."""
    changed = parse_pipeline(FILE.replace("length: 1d", "length: 2d").encode())

    async def release(pool: Pool, spec: PipelineSpec, champion: Released | None) -> Released:
        version = replace(a_version(1 if champion is None else champion.epoch + 1), spec=spec.digest())
        made = next_release(spec, champion, version, moment=Moment(DAY), reason=ReleaseReason(kind="hand"))
        async with open_unit(pool, "tidemill") as unit:
            await unit.release(made)
        return made

    async def announced(pool: Pool) -> list[list[str]]:
        rows = await pool.fetch("SELECT value FROM registry.outbox WHERE topic LIKE '%pipelines%' ORDER BY id")
        return [[file.digest for file in PipelineApplied.read(row["value"]).kept] for row in rows]

    async def work(pool: Pool) -> None:
        await applied(pool, SPEC)
        one = await release(pool, SPEC, None)
        await applied(pool, changed)
        assert await announced(pool) == [[], [SPEC.digest()]]
        two = await release(pool, changed, one)
        assert await announced(pool) == [[], [SPEC.digest()]]
        await release(pool, changed, two)
        assert await announced(pool) == [[], [SPEC.digest()], []]
        standing = await StoreQueries(pool).pipeline("demo")
        assert standing is not None
        assert standing["kept"] == []

    on_database(postgres_dsn, work)
