"""Which earlier files of a pipeline stay in use, and what a new file may not take away from them."""

from collections.abc import Iterator, Sequence

from tidemill_contracts.pipeline import PipelineSpec

ON_HAND = 2
"""Releases that serving may answer with at once: the newest, and the one before it when it fails."""


def kept_files(files: Sequence[str], digest: str) -> list[str]:
    """Digests of other files than `digest` that releases on hand were made for, sorted; `files` of all, by epoch."""
    return sorted(set(files[-ON_HAND:]) - {digest})


def taken_away(before: PipelineSpec, after: PipelineSpec) -> Iterator[str]:
    """What a release made for the file `before` needs and the file `after` does not bring any more, in words."""
    sources = {view.source for view in before.views.values()} | {before.label.source}
    yield from (f"the source {name}" for name in sorted(sources - set(after.sources)))
    yield from (f"the request field {name}" for name in before.request.fields if name not in after.request.fields)
    if before.partitions != after.partitions:
        yield f"its {before.partitions} partitions"
