"""What a view computes: fields, windows of panes, aggregations. Plain data, checked when built."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from typing import Literal, get_args

from tidemill_contracts.pipeline import AggregationSpec, CategoryField, NumberField, SourceSpec, ViewSpec
from tidemill_engine.expressions import ExpressionError, compile_expression, field_types
from tidemill_engine.expressions.kinds import FieldType

Function = Literal[
    "count", "sum", "mean", "var", "std", "min", "max", "first", "last", "age_of_last",
    "lag", "distinct", "top", "ewma", "ratio",
]  # fmt: skip
DEFAULT_QUANTUM_BITS = 40
SECOND_US = 1_000_000
_FUNCTIONS = frozenset(get_args(Function))
_MAXIMUM_BITS = 60
_ALL_TIME: list[int | None] = [None]
_NOT_IN_RATIOS = {"ratio", "age_of_last"}  # an age grows by itself, and readers add what it has grown
_PARAMETERS = {"lag": (1, 8), "top": (1, 256), "ewma": (SECOND_US, 366 * 86_400 * SECOND_US)}


@dataclass(frozen=True, slots=True)
class Window:
    """`panes` panes of `length_us / panes` microseconds, aligned to the epoch; one pane makes a tumbling window.

    With `gap_us` it is a session: of those panes' events the newest ones that follow each other within the gap; see
    `sessions`.
    """

    length_us: int
    panes: int
    gap_us: int | None = None

    def __post_init__(self) -> None:
        if self.panes < 1 or self.length_us <= 0 or self.length_us % self.panes:
            raise ValueError("a window's length must be a positive multiple of its panes")
        if self.pane_us % SECOND_US:
            raise ValueError("a pane must be a whole number of seconds")
        if self.gap_us is not None and not self.pane_us <= self.gap_us <= self.length_us // 2:
            raise ValueError("a session's gap must not be shorter than a pane, nor longer than half of its length")

    @property
    def pane_us(self) -> int:
        """Length of one pane in microseconds."""
        return self.length_us // self.panes


@dataclass(frozen=True, slots=True)
class Aggregation:
    """One feature: `function` of `field` (None: the event itself) over `windows[window]` (None: over all time).

    `lag` is the value `parameter` events before the newest one (1 to 8, by time and id), `top` the most frequent of
    `parameter` categories (values 0, 1, ...; of equals the lowest), `distinct` an estimate of the number of different
    values (see `sketch`), `ewma` the mean with weights that halve every `parameter` microseconds (see
    `reading`). `ratio` divides feature `of[0]` of the view by feature `of[1]`, null where that is 0.
    """

    function: Function
    field: str | None = None
    window: int | None = None
    parameter: int | None = None
    of: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.function not in _FUNCTIONS:
            raise ValueError(f"{self.function} is not an aggregation")
        if self.field is None and self.function not in {"count", "age_of_last", "ratio"}:
            raise ValueError(f"{self.function} needs a field")
        if (self.of is None) == (self.function == "ratio"):
            raise ValueError("a ratio, and nothing else, is of two features")
        low, high = _PARAMETERS.get(self.function, (None, None))
        if low is None or high is None:
            if self.parameter is not None:
                raise ValueError(f"{self.function} has no parameter")
        elif self.parameter is None or not low <= self.parameter <= high:
            raise ValueError(f"{self.function} needs a parameter between {low} and {high}")
        if self.function == "ewma" and self.window is None:
            raise ValueError("ewma needs a window")


@dataclass(frozen=True)
class ViewPlan:
    """The features of one view, in the order of the vector.

    `quantum_bits[i]` says that exact sums of `fields[i]` are multiples of 2**-bits. A key without events for `ttl_us`
    is forgotten; None means: when its largest window is empty, or never if something runs over all time.
    """

    fields: tuple[str, ...]
    windows: tuple[Window, ...]
    aggregations: tuple[Aggregation, ...]
    quantum_bits: tuple[int, ...] = ()
    ttl_us: int | None = None

    def __post_init__(self) -> None:
        if len(set(self.fields)) != len(self.fields):
            raise ValueError("fields must be distinct")
        if self.quantum_bits and len(self.quantum_bits) != len(self.fields):
            raise ValueError("quantum_bits must name one quantum for each field")
        if any(not 0 <= bits <= _MAXIMUM_BITS for bits in self.quantum_bits):
            raise ValueError(f"quantum_bits must lie between 0 and {_MAXIMUM_BITS}")
        if not self.aggregations:
            raise ValueError("a view needs an aggregation")
        if self.ttl_us is not None and self.ttl_us < self.longest_us:
            raise ValueError("ttl_us must not be shorter than the longest window")
        for aggregation in self.aggregations:
            self._check(aggregation)

    def _check(self, aggregation: Aggregation) -> None:
        if aggregation.field is not None and aggregation.field not in self.fields:
            raise ValueError(f"{aggregation.field} is not a field of this view")
        if aggregation.window is not None and not 0 <= aggregation.window < len(self.windows):
            raise ValueError(f"there is no window {aggregation.window}")
        if aggregation.function == "ewma" and self.windows[aggregation.window or 0].gap_us is not None:
            raise ValueError("ewma has no meaning over a session")
        for index in aggregation.of or ():
            if not 0 <= index < len(self.aggregations) or self.aggregations[index].function in _NOT_IN_RATIOS:
                raise ValueError(f"there is no feature {index} that a ratio may be of")
        sizes = {item.parameter for item in self.aggregations if item.function == "top" == aggregation.function
                 and item.field == aggregation.field}  # fmt: skip
        if len(sizes) > 1:
            raise ValueError("a field has one number of categories")

    @property
    def longest_us(self) -> int:
        """Length of the longest window, 0 without windows."""
        return max((window.length_us for window in self.windows), default=0)

    @property
    def step_us(self) -> int:
        """The step of watermarks: the greatest common divisor of the panes, a minute without windows."""
        return gcd(*(window.pane_us for window in self.windows)) or 60 * SECOND_US

    @property
    def lifetime_us(self) -> int | None:
        """How long a key without events is kept, None for ever."""
        if self.ttl_us is not None:
            return self.ttl_us
        has_all_time = any(item.window is None and item.of is None for item in self.aggregations)
        return None if has_all_time else self.longest_us

    @property
    def bits(self) -> tuple[int, ...]:
        """Quantum bits of every field, the default filled in."""
        return self.quantum_bits or (DEFAULT_QUANTUM_BITS,) * len(self.fields)

    @property
    def categories(self) -> dict[int, int]:
        """Number of categories of the fields whose values must be 0, 1, ..., by place of the field."""
        tops = [item for item in self.aggregations if item.function == "top" and item.field is not None]
        return {self.fields.index(item.field or ""): item.parameter or 0 for item in tops}

    @cached_property
    def fingerprint(self) -> int:
        """32 bits that name this plan inside stored state."""
        parts = (self.fields, self.bits, [_shape(w) for w in self.windows], self.lifetime_us)
        features = [(a.function, a.field, a.window, *_more(a)) for a in self.aggregations]
        return int.from_bytes(hashlib.sha256(repr((parts, features)).encode()).digest()[:4], "little")


def _shape(window: Window) -> tuple[int, ...]:
    """As `_more`."""
    plain = (window.length_us, window.panes)
    return plain if window.gap_us is None else (*plain, window.gap_us)


def _more(item: Aggregation) -> tuple[object, ...]:
    """What came later counts only where it is used: a fingerprint names state that is stored."""
    return () if item.parameter is None and item.of is None else (item.parameter, item.of)


def compile_view(view: ViewSpec, source: SourceSpec) -> ViewPlan:
    """The plan of a view of the pipeline file; features in the order of `view.feature_names`.

    Raises ValueError where the engine is narrower than the file: panes that are no whole seconds, more than 256
    categories for `top`; for functions that their field's type has no meaning for; and for filters that are none. A
    filtered aggregation is of a column of its own, `field?where`, which `entities.RowReader` fills in.
    """
    _check_types(view, source)
    fields = tuple(sorted({item.column for item in view.aggregations if item.column is not None}))
    names = list(view.windows)
    places = {name: place for place, name in enumerate(view.feature_names(""))}
    aggregations = [
        Aggregation(item.function, item.column, window, _parameter(item, source), _of(item, places))
        for item in view.aggregations
        for window in [*map(names.index, view.windows_of(item))] or _ALL_TIME
    ]
    windows = tuple(Window(window.length, window.panes, window.session) for window in view.windows.values())
    longest = max((window.length_us for window in windows), default=0)
    return ViewPlan(fields, windows, tuple(aggregations), _bits(fields, source), max(view.ttl, longest))


def _parameter(item: AggregationSpec, source: SourceSpec) -> int | None:
    if item.function != "top" or item.field is None:
        return item.n if item.function == "lag" else item.half_life
    spec = source.fields[item.field]
    return len(spec.values) if isinstance(spec, CategoryField) else 2


def _of(item: AggregationSpec, places: Mapping[str, int]) -> tuple[int, int] | None:
    return None if item.function != "ratio" else (places[f".{item.dividend}"], places[f".{item.divisor}"])


def _check_types(view: ViewSpec, source: SourceSpec) -> None:
    types = field_types(source.fields)
    for item in view.aggregations:
        if item.where is not None:
            _check_filter(item, types)
        kind = None if item.field is None else source.fields[item.field].type
        if item.function == "top" and kind not in {"category", "boolean"}:
            raise ValueError(f"top: {item.field} is neither a category nor a boolean")
        if kind == "string" and item.function not in {"distinct", "count"}:
            raise ValueError(f"{item.function}: {item.field} is text, of which only distinct values can be counted")


def _check_filter(item: AggregationSpec, types: Mapping[str, FieldType]) -> None:
    try:
        is_boolean = compile_expression(item.where or "", types).is_boolean
    except ExpressionError as error:
        raise ValueError(f"{item.name}: where: {error}") from None
    if not is_boolean:
        raise ValueError(f"{item.name}: where must be true or false")


def _bits(fields: tuple[str, ...], source: SourceSpec) -> tuple[int, ...]:
    specs = (source.fields.get(name.partition("?")[0]) for name in fields)
    return tuple(-spec.quantum if isinstance(spec, NumberField) else DEFAULT_QUANTUM_BITS for spec in specs)
