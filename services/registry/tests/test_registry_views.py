"""A view that the answering release reads cannot be taken away by applying a file without it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from tidemill_contracts.events import Member, PipelineApplied, Released, ReleaseReason
from tidemill_contracts.pipeline import PipelineSpec, parse_pipeline
from tidemill_registry.api.pipelines import routes
from tidemill_registry.domain.review import Standing
from tidemill_registry.domain.views import missing_views
from tidemill_runtime.http import HttpProblem

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


class Unit:
    """A transaction that knows one standing."""

    def __init__(self) -> None:
        self.applied: list[PipelineSpec] = []

    async def lock(self, _pipeline: str) -> None: ...

    async def standing(self, _pipeline: str) -> Standing:
        return standing("others.count_1d")

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


class Request:
    """As much of a request as the route looks at."""

    def __init__(self, spec: PipelineSpec) -> None:
        self.path_params = {"pipeline": spec.name}


@pytest.mark.anyio
async def test_the_route_says_which_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Fake()
    put = routes(cast("Any", registry))[0].endpoint
    without = parse_pipeline(FILE.replace(OTHERS, "").encode())
    for spec, problem in ((without, "the release that answers reads others"), (SPEC, None)):

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
