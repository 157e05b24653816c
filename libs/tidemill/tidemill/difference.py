"""What applying a pipeline file would change, field by field."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from tidemill_contracts.pipeline import PipelineSpec

Change = Literal["added", "removed", "changed"]


@dataclass(frozen=True, slots=True)
class Difference:
    """`fields` by dotted name: (change, before, after); `views` whose values would be computed anew; both digests."""

    fields: dict[str, tuple[Change, Any, Any]]
    views: dict[str, Change]
    before: str | None
    after: str

    @property
    def changes(self) -> bool:
        """Whether applying the file would change anything."""
        return self.before != self.after

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        fields = {
            name: {"change": change, "before": before, "after": after}
            for name, (change, before, after) in self.fields.items()
        }
        return {
            "changes": self.changes, "before": self.before, "after": self.after, "fields": fields, "views": self.views,
        }  # fmt: skip


def difference(before: PipelineSpec | None, after: PipelineSpec) -> Difference:
    """What is new, gone or different in `after`; everything is new when nothing was applied before."""
    old = {} if before is None else dict(_flat(before.model_dump(mode="json")))
    new = dict(_flat(after.model_dump(mode="json")))
    fields = {name: found for name in sorted(old | new) if (found := _change(old, new, name)) is not None}
    versions = {} if before is None else {name: before.view_version(name) for name in before.views}
    wanted = {name: after.view_version(name) for name in after.views}
    views = {name: found[0] for name in sorted(versions | wanted) if (found := _change(versions, wanted, name))}
    return Difference(fields, views, None if before is None else before.digest(), after.digest())


def _change(old: dict[str, Any], new: dict[str, Any], name: str) -> tuple[Change, Any, Any] | None:
    if name not in old:
        return "added", None, new[name]
    if name not in new:
        return "removed", old[name], None
    # 1 and true are equal in Python and different in a file.
    same = old[name] == new[name] and type(old[name]) is type(new[name])
    return None if same else ("changed", old[name], new[name])


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401 - any JSON value
    """Leaves by dotted name; an empty object or list is a leaf."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not items or not value:
        yield path, value
        return
    for name, inner in items:
        yield from _flat(inner, f"{path}.{name}" if path else str(name))
