"""From a request for online features to its answer, column by column."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from tidemill_contracts.base import format_time
from tidemill_features.feast.catalogue import Catalogue, FeastView, Ref
from tidemill_features.feast.errors import Broken, Collision, InvalidRequestError, UnknownView
from tidemill_features.feast.models import OnlineFeaturesRequest, Scalar, Status
from tidemill_features.feast.tables import Expired, Tables, Vector

MOST_CELLS = 500_000
NO_TIME = "1970-01-01T00:00:00Z"
_REF = re.compile(r"(?P<view>[^:@]+)(@(?P<version>[^:]*))?:(?P<feature>.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Plan:
    """A request that can be answered: features by view, in the order of the answer, and the number of rows."""

    asked: OnlineFeaturesRequest
    views: Sequence[tuple[FeastView, Sequence[str]]]
    rows: int

    @property
    def cells(self) -> int:
        """Values in the answer."""
        return self.rows * sum(len(features) for _, features in self.views)


class _Column(msgspec.Struct):
    values: list[Scalar]
    statuses: list[Status]
    event_timestamps: list[str]


def plan(catalogue: Catalogue, asked: OnlineFeaturesRequest) -> Plan:
    """What to read; raises FeastRefusal or InvalidRequestError."""
    views: dict[str, list[str]] = {}
    refs = _refs(catalogue, asked)
    for view, feature in refs:
        views.setdefault(view, []).append(feature)
    _refuse_collisions(refs, full=asked.full_feature_names)
    found = [(catalogue.view(name), features) for name, features in views.items()]
    made = Plan(asked, found, _rows(asked.entities, found))
    if made.cells > MOST_CELLS:
        raise InvalidRequestError([Broken("", "size", f"an answer has at most {MOST_CELLS} values")])
    return made


def answer(made: Plan, tables: Tables) -> bytes:
    """The answer's JSON. Values are those that were published, bit for bit; raises InvalidRequestError."""
    entities = {name: made.asked.entities[name] for name in made.asked.entities if _is_key(made, name)}
    names = list(entities)
    columns = [_Column(list(values), ["PRESENT"] * made.rows, [NO_TIME] * made.rows) for values in entities.values()]
    for view, features in made.views:
        names += [f"{view.name}__{name}" for name in features] if made.asked.full_feature_names else features
        columns += _columns(view, features, _found(view, tables, entities, made.rows))
    metadata: dict[str, object] = {"feature_names": names}
    if made.asked.include_feature_view_version_metadata:
        metadata["feature_view_metadata"] = [{"name": view.name} for view, _ in made.views]
    return _ENCODER.encode({"results": columns, "metadata": metadata})


def _is_key(made: Plan, name: str) -> bool:
    return any(name in view.key.key for view, _ in made.views)


def _refs(catalogue: Catalogue, asked: OnlineFeaturesRequest) -> Sequence[Ref]:
    if asked.feature_service is not None:
        if asked.features:
            raise InvalidRequestError([Broken("features", "exclusive", "stands beside feature_service: give one")])
        return catalogue.service(asked.feature_service)
    if not asked.features:
        raise InvalidRequestError([Broken("features", "required", "is empty, and there is no feature_service")])
    return [_ref(catalogue, place, text) for place, text in enumerate(asked.features)]


def _ref(catalogue: Catalogue, place: int, text: str) -> Ref:
    match = _REF.fullmatch(text)
    if match is None:
        raise InvalidRequestError([Broken(f"features.{place}", "format", "must be view:feature")])
    if match["version"] not in {None, "", "latest"}:
        raise UnknownView("feature views have no numbered versions here: ask for the view without one")
    view = catalogue.view(match["view"])
    if match["feature"] not in view.features:
        raise InvalidRequestError([Broken(f"features.{place}", "unknown", "is not a feature of this view")])
    return view.name, match["feature"]


def _refuse_collisions(refs: Sequence[Ref], *, full: bool) -> None:
    names = Counter(refs if full else (feature for _, feature in refs))
    if max(names.values()) == 1:
        return
    if full or len(set(refs)) < len(refs):
        raise Collision("a feature is asked for twice")
    twice = sorted(feature for _, feature in set(refs) if names[feature] > 1)
    raise Collision(f"several views have a feature {twice[0]}: set full_feature_names to tell them apart")


def _rows(entities: Mapping[str, Sequence[Scalar]], views: Sequence[tuple[FeastView, Sequence[str]]]) -> int:
    missing = {name: view.name for view, _ in views for name in view.key.key if name not in entities}
    if missing:
        broken = [Broken(f"entities.{name}", "required", f"is a join key of {view}") for name, view in missing.items()]
        raise InvalidRequestError(broken)
    lengths = {len(column) for column in entities.values()}
    if len(lengths) != 1:
        raise InvalidRequestError([Broken("entities", "length", "all columns must have the same number of rows")])
    return lengths.pop()


def _found(
    view: FeastView, tables: Tables, entities: Mapping[str, Sequence[Scalar]], rows: int
) -> list[Vector | Expired | None]:
    table, keys = tables.by_topic[view.topic], view.key.key
    found: list[Vector | Expired | None] = []
    for row in range(rows):
        try:
            text = view.key({name: entities[name][row] for name in keys})
        except (ValueError, OverflowError):
            field = f"entities.{keys[0]}.{row}" if len(keys) == 1 else f"entities.*.{row}"
            raise InvalidRequestError([Broken(field, "key", "is not of the join key's type")]) from None
        found.append(None if text is None else table.get(text))
    return found


def _columns(view: FeastView, features: Sequence[str], found: Sequence[Vector | Expired | None]) -> list[_Column]:
    times = [NO_TIME if item is None or item.at_us is None else format_time(item.at_us) for item in found]
    columns = []
    for place in (view.features[name] for name in features):
        cells = [_cell(item, place) for item in found]
        columns.append(_Column([value for value, _ in cells], [status for _, status in cells], times))
    return columns


def _cell(item: Vector | Expired | None, place: int) -> tuple[float | None, Status]:
    if isinstance(item, Vector):
        value = item.values[place]
        return (value, "PRESENT") if value == value else (None, "NULL_VALUE")  # noqa: PLR0124 - NaN is null here
    return None, "NOT_FOUND" if item is None else "OUTSIDE_MAX_AGE"


_ENCODER = msgspec.json.Encoder()
