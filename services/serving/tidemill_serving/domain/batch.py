"""One batch of requests to one pipeline: who answers which key, who answers instead, and the records of it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from tidemill_contracts.events import Fallback
from tidemill_serving.domain.answers import ArmName, Part, Record, Remembered, answer_of, mark_of
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.drafts import Drafts, Order, Query
from tidemill_serving.domain.extras import Seen, put_in
from tidemill_serving.domain.frames import Sheaf
from tidemill_serving.domain.loaded import Beside, Head, Loaded, Rival
from tidemill_serving.domain.once import repeat
from tidemill_serving.domain.plan import Lines, Plan
from tidemill_serving.domain.releases import Champion
from tidemill_serving.domain.replica import Replica, Row
from tidemill_serving.domain.requests import Ask
from tidemill_serving.domain.scoring import Scores, Weighted, finite, score
from tidemill_serving.domain.traffic import Traffic

LARGEST_RECORD = 900_000
"""Bytes; a record that Kafka refuses would hold up all behind it for ever."""


class Known(Protocol):
    """Answers that were given before."""

    def get(self, prediction_id: str) -> Remembered | None: ...


class Host(Protocol):
    """The pipeline whose requests these are."""

    @property
    def name(self) -> str: ...

    @property
    def champion(self) -> Champion[Loaded]: ...

    @property
    def recent(self) -> Known: ...

    @property
    def traffic(self) -> Traffic: ...

    def body(self, record: Record) -> bytes: ...

    def predictions(self, written: Sequence["Written"]) -> list[Sheaf]: ...


class Written(NamedTuple):
    """What a prediction's record is made of; with an order it is not the log that brings it to Kafka."""

    identity: bytes
    traceparent: bytes
    key: bytes
    body: bytes
    at_us: int
    order: Order | None


class Moment:
    """When a batch is answered, and how things stand then: lowest is the least time that a record may have."""

    __slots__ = ("degraded", "lowest", "now_us", "watermark_us")

    def __init__(self, now_us: int, watermark_us: int | None, floor_us: int | None, *, degraded: bool) -> None:
        self.now_us, self.watermark_us, self.degraded = now_us, watermark_us, degraded
        self.lowest = max((bound for bound in (watermark_us, floor_us) if bound is not None), default=None)


class Batch:
    """One batch under way."""

    def __init__(self, desk: Host, replica: Replica, moment: Moment, *, traced: bool) -> None:
        self._desk, self._replica, self._moment = desk, replica, moment
        self._besides, self._written = list[Beside](), list[Written]()
        self._drafts = Drafts([], [], [], {} if traced else None, self._besides)
        self._fresh: dict[str, int] = {}
        self._why: dict[int, tuple[ArmName, Fallback]] = {}
        self._has_extras = False

    def run(self, queries: Sequence[Query]) -> Drafts:
        active = self._desk.champion.active
        if active is None:
            raise RefusedError(409, "no release yet", "no release yet: train first")
        again: list[tuple[int, int]] = []
        todo: list[int] = []
        for index, query in enumerate(queries):
            identity = query.identity
            self._drafts.results.append(_UNANSWERED)
            known = self._desk.recent.get(identity)
            if known is not None and (query.order is None or known.origin != query.order.origin):
                self._drafts.results[index] = repeat(known, query.ask)
            elif identity in self._fresh:
                again.append((index, self._fresh[identity]))
            else:
                self._fresh[identity] = index
                todo.append(index)
                if query.ask.extra is not None:
                    self._has_extras = True
        if todo:
            self._answer(active, queries, todo)
        if self._written:
            self._drafts.entries.extend(self._desk.predictions(self._written))
        remembered = dict(self._drafts.remembered)
        for index, first in again:
            found = remembered.get(queries[index].identity)
            same = self._drafts.results[first] if found is None else repeat(found, queries[index].ask)
            self._drafts.results[index] = same
        return self._drafts

    def _answer(self, active: Loaded, queries: Sequence[Query], todo: list[int]) -> None:
        """Each key by its arm; the champion for a challenger without an answer, the release before for a champion."""
        mine, theirs = todo, []
        rival = active.rival
        if rival is not None:
            theirs = [index for index in todo if rival.takes(queries[index].ask)]
            if theirs:
                rest = self._score(active, rival, queries, theirs)
                mine = sorted({*todo}.difference(theirs).union(rest))
        left = self._score(active, active, queries, mine) if mine else []
        previous = self._desk.champion.previous
        if left and previous is not None:
            self._score(previous, previous, queries, left, of=active)

    def _score(
        self, loaded: Loaded, side: Loaded | Rival, queries: Sequence[Query], todo: list[int], of: Loaded | None = None
    ) -> list[int]:  # fmt: skip
        """Answer the queries `todo` by one side; returns those for which no model had a probability.

        `of`: the release whose keys they are, where an earlier one stands in for it.
        """
        plan, moment = side.plan, self._moment
        lines = self._read(plan, [queries[i].ask for i in todo])
        scores = score(side.members, loaded.shadows if side is loaded else (), lines.vectors)
        writer = _Writer(self._desk.name, loaded, side, moment, stands_in=of is not None)
        before = len(self._written)
        left, kept, heads = list[int](), list[int](), list[Head]()
        vectors, mixed = plan.texts(lines, is_changed=self._has_extras), scores.mixed.tolist()
        for row, index in enumerate(todo):
            refused, value, query = lines.refused[row], mixed[row], queries[index]
            if refused is not None:
                self._drafts.results[index] = _unknown_entity(refused)
            elif value != value:  # noqa: PLR0124 - NaN
                left.append(index)
                self._why.setdefault(index, (writer.arm, scores.why(row) or "invalid"))
            else:
                record = writer.record(query, vectors[row], value, (lines.rows[row], lines.defaulted[row]))
                if self._has_extras and (extra := query.ask.extra) is not None:
                    record.inline, extra.seen = extra.inline, Seen(plan.features, lines.vectors[row], side.members)
                if writer.is_more:
                    writer.extend(record, scores, row)
                if writer.may_fall_back or self._why:
                    self._note_fallback(record, self._why.get(index) or writer.partly(scores, row), of or loaded)
                if self._take(index, record, lines.rows[row], query) and loaded.asides:
                    kept.append(row)
                    heads.append(Head(query.identity, query.ask.key, record.at_us, query.traceparent))
        self._desk.traffic.count(writer.arm, writer.version, len(self._written) - before)
        if heads:
            self._beside(loaded, side, ([queries[todo[row]].ask for row in kept], heads, lines.vectors[kept]))
        if self._drafts.reads is not None:
            self._note_reads(loaded, lines, [(row, queries[index]) for row, index in enumerate(todo)])
        return left

    def _read(self, plan: Plan, asks: Sequence[Ask]) -> Lines:
        lines = plan.lines(plan.tables(self._replica), asks, self._moment.watermark_us)
        if self._has_extras:
            put_in(lines.vectors, plan.features, asks)
        return lines

    def _note_fallback(self, record: Record, why: tuple[ArmName, Fallback] | None, owner: Loaded) -> None:
        """Say in the record whose key it was and why another answered, or only a part of the members."""
        if why is None:
            return
        arm, record.fallback = why
        self._desk.traffic.fallbacks[why] += 1
        if owner.rival is not None:
            record.arm, record.share = arm, owner.rival.share if arm == "challenger" else owner.share

    def _beside(
        self, loaded: Loaded, side: Loaded | Rival, of: tuple[list[Ask], list[Head], NDArray[np.float64]]
    ) -> None:  # fmt: skip
        asks, heads, vectors = of
        own = vectors if side.plan is loaded.plan else None
        self._besides.append(Beside(loaded, asks, heads, own, self._moment.watermark_us))

    def _note_reads(self, loaded: Loaded, lines: Lines, asked: Sequence[tuple[int, Query]]) -> None:
        if (reads := self._drafts.reads) is None:
            return
        for row, query in asked:
            behind = [loaded.cause.traceparent, *(found.trace for found in lines.rows[row].values())]
            reads[query.identity] = [context for context in behind if context is not None]

    def _take(self, index: int, record: Record, rows: Mapping[str, Row], query: Query) -> bool:
        """Draft the record and its answer; false for one that the log cannot take."""
        body = self._desk.body(record)
        if len(body) > LARGEST_RECORD:
            self._drafts.results[index] = _TOO_LARGE
            return False
        answer = answer_of(record, rows)
        self._drafts.results[index] = answer
        self._written.append(Written(
            record.prediction_id.encode(), query.traceparent.encode(), record.key.encode(), body, record.at_us,
            query.order,
        ))  # fmt: skip
        if query.ask.id is not None:
            origin = b"" if query.order is None else query.order.origin
            self._drafts.remembered.append(
                (record.prediction_id, Remembered(mark_of(record.request, record.inline), answer, origin))
            )
        return True


class _Writer:
    """Makes the records of one batch and side of a release."""

    def __init__(
        self, name: str, loaded: Loaded, side: Loaded | Rival, moment: Moment, *, stands_in: bool
    ) -> None:  # fmt: skip
        self._name, self._digest, self._leader = name, side.plan.digest, side.leader
        self._epoch, self._degraded = loaded.released.epoch, moment.degraded or stands_in
        self._moment, self._loaded, self._side = moment, loaded, side
        self.arm: ArmName = "champion" if side is loaded else "challenger"
        self.version = self._leader.version
        released = loaded.released
        self._thresholds = sorted(released.thresholds.items()) if released.thresholds else []
        self._is_mixed = self.may_fall_back = len(side.members) > 1
        is_plain = not (loaded.shadows or self._is_mixed or self._thresholds or released.sequence)
        self.is_more = not is_plain or loaded.rival is not None

    def record(
        self, query: Query, vector: msgspec.Raw, value: float, read: tuple[dict[str, Row], list[str]]
    ) -> Record:  # fmt: skip
        """What every record has; by position, which costs half."""
        ask, (rows, defaulted) = query.ask, read
        moment = self._moment
        at_us = moment.now_us if ask.time_us is None else ask.time_us
        if moment.lowest is not None and at_us < moment.lowest:
            at_us = moment.lowest
        return Record(
            query.identity, self._name, ask.key, at_us, self._epoch, self._leader.digest, self._leader.version, value,
            {}, {}, vector, self._digest, {view: msgspec.Raw(row.revision_json) for view, row in rows.items()},
            ask.raw, defaulted, self._degraded, moment.watermark_us, query.traceparent[3:35],
        )  # fmt: skip

    def extend(self, record: Record, scores: Scores, row: int) -> None:
        """What only records of releases with more than one model or with thresholds have."""
        loaded, side = self._loaded, self._side
        if self._is_mixed:
            record.members = finite(scores.members, row)
            record.mix = [_part(member, scores, row) for member in side.members]
        if scores.shadows:
            record.shadows = finite(scores.shadows, row)
        if loaded.rival is not None:
            record.arm, record.share = self.arm, side.share
        record.sequence = loaded.released.sequence
        record.above = [name for name, threshold in self._thresholds if record.score >= threshold]

    def partly(self, scores: Scores, row: int) -> tuple[ArmName, Fallback] | None:
        """Why a mix is not of all its members, if it is not."""
        why = scores.why(row)
        return None if why is None else (self.arm, why)


def _part(member: Weighted, scores: Scores, row: int) -> Part:
    own = float(scores.members[member.digest][row])
    return Part(member.digest, member.version, member.weight, own if own == own else None)  # noqa: PLR0124 - NaN


_UNANSWERED = RefusedError(503, "no answer", "no model of this pipeline has a finite answer to these inputs")
_TOO_LARGE = RefusedError(422, "too large", "the record of this prediction would be too large for the log")


def _unknown_entity(view: str) -> RefusedError:
    return RefusedError(422, "unknown entity", f"the view {view} knows no such entity and refuses to guess")
