"""The quality of one partition's stream, over windows of event time: judged in the order of the log, without a clock.

`observe` is for records that were just decided. Its state goes into the transaction of their decisions, so what a
window holds and what is told of it does not depend on how the log was cut into batches or on crashes.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from tidemill_contracts import Envelope
from tidemill_contracts.events import QualityBreached, QualityJudged, Timer, encode
from tidemill_contracts.ids import derived_id
from tidemill_contracts.pipeline import FieldQuality, QualitySpec
from tidemill_ingestion.domain.decide import Emit, Position
from tidemill_ingestion.domain.source import Source

MOST_RANGES = 256
"""Of one window; where more runs of numbers would be needed, the last one covers what lies between."""
WRITER = "/services/ingestion"
_NULLS, _VALUES, _OUTSIDE, _OTHERS = range(4)
_SECOND_US = 1_000_000


class Window(msgspec.Struct):
    """An open window: its rows, their numbers as runs [first, last], and for each field four counts."""

    rows: int = 0
    runs: list[list[int]] = []
    counts: dict[str, list[int]] = {}


class State(msgspec.Struct):
    """What is kept between batches. `following_us` is the start of the next window to be judged.

    `told_us` is up to where it was told that all is judged.
    """

    rules: str = ""
    following_us: int | None = None
    silent_since_us: int | None = None
    told_us: int | None = None
    windows: dict[int, Window] = {}


class Breach(NamedTuple):
    """What is told of a window, and the id of the record by which it was known."""

    event: QualityBreached
    cause: str

    def envelope(self) -> Envelope:
        """The event as it is published; its time is the end of the window."""
        event = self.event
        return encode(
            event, id=str(event.quarantine_id), source=WRITER, time_us=event.window_us[1],
            subject=event.source, causation=self.cause,
        )  # fmt: skip


class Judged(NamedTuple):
    """The state after a batch, encoded, the breaches within it in the order of the log, and how far all is judged.

    `until` is told behind the breaches, once for each boundary of windows that the watermark reaches or, within one
    batch, passes.
    """

    state: bytes
    breaches: list[Breach]
    until: Envelope | None


def rules_digest(spec: QualitySpec) -> str:
    """Names the rules: state that was counted under others begins anew."""
    return hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]


def observe(source: Source, partition: int, state: bytes, emits: Sequence[Emit], before: Position) -> Judged:
    """Count the applied events among `emits`, judge windows that the watermark has passed; `before` is where it was."""
    spec = source.spec.quality
    if spec is None:
        raise ValueError("the source declares no quality")
    known = _STATE.decode(state) if state else State()
    work = _Work(source, spec, partition, known if known.rules == rules_digest(spec) else State(), before)
    for emit in emits:
        if emit.family == "events":
            work.take(emit)
    until = work.until()
    return Judged(_ENCODER.encode(work.state), work.breaches, until)


class _Work:
    def __init__(self, source: Source, spec: QualitySpec, partition: int, state: State, before: Position) -> None:
        self.state, self.breaches = state, list[Breach]()
        self.state.rules = rules_digest(spec)
        self._source, self._spec, self._partition = source, spec, partition
        self._watermark, self._newest = before.watermark_us, before.newest_us
        self._lateness = min(source.spec.allowed_lateness, source.spec.keep_ids)
        self._fields = [(name, bounds, frozenset(bounds.values or ())) for name, bounds in sorted(spec.fields.items())]
        self._cause = ""

    def take(self, emit: Emit) -> None:
        if emit.event is not None and emit.seq is not None:
            self._cause = emit.event.id
            self._freshness(emit.event.time_us)
            self._count(emit.event.time_us, emit.seq, _BODY.decode(emit.event.data))
            self._newest = _later(self._newest, emit.event.time_us)
            self._watermark = _later(self._watermark, self._newest - self._lateness)
        elif emit.given is not None:
            self._cause = emit.given.id
            time_us = Timer.read(emit.given.data).time_us
            self._freshness(time_us)
            self._watermark = _later(self._watermark, time_us)
        self._close()

    def until(self) -> Envelope | None:
        """The word on how far all is judged, when that is news: no window that ends by then can be judged any more."""
        if self._watermark is None:
            return None
        until_us = self._watermark // self._spec.window * self._spec.window
        if self.state.told_us is not None and until_us <= self.state.told_us:
            return None
        self.state.told_us = until_us
        name, partition = self._source.name, self._partition
        return encode(
            QualityJudged(source=name, partition=partition, until_us=until_us),
            id=str(derived_id("quality-judged", name, partition, until_us)), source=WRITER, time_us=until_us,
            subject=name, causation=self._cause or None,
        )  # fmt: skip

    # counting

    def _count(self, time_us: int, seq: int, body: dict[str, Any]) -> None:
        start = time_us // self._spec.window * self._spec.window
        following = self.state.following_us
        if following is None or start < following:  # earlier than the first event, though not late
            self.state.following_us = start
        window = self.state.windows.get(start)
        if window is None:
            window = self.state.windows[start] = Window(0, [], {name: [0, 0, 0, 0] for name, _, _ in self._fields})
        window.rows += 1
        runs = window.runs
        if runs and (runs[-1][1] == seq - 1 or len(runs) == MOST_RANGES):
            runs[-1][1] = seq
        else:
            runs.append([seq, seq])
        for name, bounds, values in self._fields:
            _note(window.counts[name], bounds, values, body.get(name))

    # judging

    def _close(self) -> None:
        """Judge every window whose end the watermark has reached; a run of empty ones is one."""
        state, length = self.state, self._spec.window
        if self._watermark is None or state.following_us is None:
            return
        end = self._watermark // length * length
        while state.following_us < end:
            start = state.following_us
            window = state.windows.pop(start, None)
            if window is not None:
                state.following_us = start + length
                self._judge(window, (start, start + length))
            else:
                state.following_us = min([end, *(known for known in state.windows if known > start)])
                self._judge(Window(), (start, state.following_us))

    def _judge(self, window: Window, span: tuple[int, int]) -> None:
        least = self._spec.minimum_rows
        if least is not None and window.rows < least:
            self._tell("", "rows", (float(window.rows), float(least)), span, window)
        if window.rows < self._spec.judge_from:
            return
        for name, bounds, _ in self._fields:
            for rule, value, bound in _shares(bounds, window.counts[name], window.rows):
                if value > bound:
                    self._tell(name, rule, (value, bound), span, window)

    def _freshness(self, time_us: int) -> None:
        """Told once for each newest event: by the first record that says that time has gone on without one."""
        most, newest = self._spec.max_silence, self._newest
        if most is None or newest is None or time_us - newest <= most or self.state.silent_since_us == newest:
            return
        self.state.silent_since_us = newest
        self._tell("", "silence", ((time_us - newest) / _SECOND_US, most / _SECOND_US), (newest, time_us), Window())

    def _tell(
        self, field: str, rule: str, measure: tuple[float, float], span: tuple[int, int], window: Window
    ) -> None:  # fmt: skip
        name, runs = self._source.name, [(first, last) for first, last in window.runs]
        event = QualityBreached(
            source=name, partition=self._partition, field=field, rule=rule, value=measure[0], bound=measure[1],
            rows=window.rows,
            window_us=span, numbers=(runs[0][0], max(last for _, last in runs)) if runs else None, ranges=runs,
            positions={f"events.{name}": {str(self._partition): max(last for _, last in runs) + 1}} if runs else {},
        )  # fmt: skip
        self.breaches.append(Breach(event, self._cause))


def _note(counts: list[int], bounds: FieldQuality, values: frozenset[str], value: Any) -> None:  # noqa: ANN401 - JSON
    if value is None:
        counts[_NULLS] += 1
        return
    counts[_VALUES] += 1
    if (bounds.min is not None and value < bounds.min) or (bounds.max is not None and value > bounds.max):
        counts[_OUTSIDE] += 1
    if values and value not in values:
        counts[_OTHERS] += 1


def _shares(bounds: FieldQuality, counts: list[int], rows: int) -> Iterator[tuple[str, float, float]]:
    """Rule, measured share and its bound."""
    if bounds.max_nulls is not None:
        yield "nulls", counts[_NULLS] / rows, bounds.max_nulls
    if bounds.has_range and counts[_VALUES]:
        yield "range", counts[_OUTSIDE] / counts[_VALUES], bounds.max_outside
    if bounds.values is not None and counts[_VALUES]:
        yield "values", counts[_OTHERS] / counts[_VALUES], bounds.max_others


def _later(known: int | None, time_us: int) -> int:
    return time_us if known is None or time_us > known else known


_ENCODER = msgspec.json.Encoder()
_STATE = msgspec.json.Decoder(State)
_BODY = msgspec.json.Decoder(dict[str, Any])
