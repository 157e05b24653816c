"""Whether a new reader understands everything an old writer wrote: schema by schema, with the place of each difference.

A structural check of the JSON Schemas that pydantic writes: types, enumerations, bounds, required fields, items. It
asks for `closed(old writer) <: new reader`, and also refuses a property that disappears: readers ignore unknown fields,
so nobody would notice what is no longer read. Where it cannot tell, it says incompatible. Breaking on purpose is a new
major version of the event's type, hence a new file.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
_LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EXACT = ("pattern", "format", "multipleOf", "uniqueItems")


def incompatibilities(old: Schema, new: Schema) -> list[str]:
    """What keeps a reader of `new` from taking all that a writer of `old` wrote; empty when compatible."""
    return list(_Comparison(old, new).differences(old, new, "$", frozenset()))


class _Comparison:
    def __init__(self, old_root: Schema, new_root: Schema) -> None:
        self._old_root, self._new_root = old_root, new_root

    def differences(self, old: Schema, new: Schema, at: str, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
        refs = (old.get("$ref", ""), new.get("$ref", ""))
        if all(refs):
            if refs in seen:
                return  # a recursive type, compared above
            seen |= {refs}
        old, new = _resolve(old, self._old_root), _resolve(new, self._new_root)
        branches = old.get("anyOf") or old.get("oneOf")
        if branches:
            for branch in branches:
                yield from self._any_branch(branch, new, at, seen)
            return
        targets = new.get("anyOf") or new.get("oneOf")
        if targets:
            yield from self._any_branch(old, new, at, seen)
            return
        yield from self._plain(old, new, at, seen)

    def _any_branch(self, old: Schema, new: Schema, at: str, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
        targets = new.get("anyOf") or new.get("oneOf") or [new]
        tries = [list(self.differences(old, target, at, seen)) for target in targets]
        if all(tries):
            yield min(tries, key=len)[0]

    def _plain(self, old: Schema, new: Schema, at: str, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
        yield from _types(old, new, at)
        yield from _values(old, new, at)
        yield from _bounds(old, new, at)
        yield from self._object(old, new, at, seen)
        yield from self._items(old, new, at, seen)

    def _object(self, old: Schema, new: Schema, at: str, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{at}.{name}: newly required"
        for name, schema in before.items():
            if name in after:
                yield from self.differences(schema, after[name], f"{at}.{name}", seen)
            else:
                yield f"{at}.{name}: removed"
        values, wanted = old.get("additionalProperties"), new.get("additionalProperties")
        if isinstance(wanted, Mapping) and not before:
            yield from self.differences(values if isinstance(values, Mapping) else {}, wanted, f"{at}.*", seen)

    def _items(self, old: Schema, new: Schema, at: str, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        if len(before) != len(after):
            yield f"{at}: {len(before)} positions became {len(after)}"
            return
        for number, (mine, theirs) in enumerate(zip(before, after, strict=True)):
            yield from self.differences(mine, theirs, f"{at}[{number}]", seen)
        if isinstance(new.get("items"), Mapping):
            yield from self.differences(old.get("items", {}), new["items"], f"{at}[]", seen)


def _resolve(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _type_set(schema: Schema) -> set[str]:
    declared = schema.get("type")
    if declared is None:
        return set()
    names = {declared} if isinstance(declared, str) else set(declared)
    return names | ({"integer"} if "number" in names else set())


def _types(old: Schema, new: Schema, at: str) -> Iterator[str]:
    wanted = _type_set(new)
    if not wanted or "const" in old or "enum" in old:
        return
    written = _type_set(old)
    if not written:
        yield f"{at}: any type became {' or '.join(sorted(wanted))}"
    elif not written <= wanted:
        yield f"{at}: {' or '.join(sorted(written))} became {' or '.join(sorted(wanted))}"


def _values(old: Schema, new: Schema, at: str) -> Iterator[str]:
    accepted = _enumerated(new)
    if accepted is None:
        return
    written = _enumerated(old)
    if written is None:
        yield f"{at}: any value became one of {len(accepted)}"
    elif missing := [value for value in written if value not in accepted]:
        yield f"{at}: no longer takes {missing}"


def _enumerated(schema: Schema) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema.get("enum")


def _bounds(old: Schema, new: Schema, at: str) -> Iterator[str]:
    for name in _LOWER:
        if name in new and (name not in old or old[name] < new[name]):
            yield f"{at}: {name} rose to {new[name]}"
    for name in _UPPER:
        if name in new and (name not in old or old[name] > new[name]):
            yield f"{at}: {name} fell to {new[name]}"
    for name in _EXACT:
        if name in new and old.get(name) != new[name]:
            yield f"{at}: {name} changed to {new[name]}"
