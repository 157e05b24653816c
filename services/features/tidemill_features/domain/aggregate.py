"""One partition of one view: the events it has seen, its watermark and state, and what readers must still be told."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tidemill_engine.windows import RejectedValuesError, ViewState
from tidemill_features.domain.cold import ColdKeys, Found, Rows, Wanted, coldest, unneeded
from tidemill_features.domain.encode import Encoder, Outgoing, Vectors
from tidemill_features.domain.letter import Letter
from tidemill_features.domain.marks import Capture, Marks, Told
from tidemill_features.domain.records import Progress, Record
from tidemill_features.domain.repartition import Row, Section
from tidemill_features.domain.runs import Run, fresh
from tidemill_features.domain.scan import SEQ, TIME
from tidemill_features.domain.taken import Rejected, Single, Taken, joined, of_section, of_singles
from tidemill_features.domain.views import View


class ViewPartition:
    """Takes events in any order and any number of times; every event counts once.

    Events of one source partition arrive in the order of their sequence numbers, except for repeats, so the highest
    number seen is all that is needed to know a repeat.
    """

    def __init__(self, view: View, partition: int) -> None:
        self.view, self.partition = view, partition
        self.state = ViewState(view.plan)
        self.seqs: dict[int, int] = {}
        self.applied: dict[int, int] = {}
        """The newest events that the state reflects; `seqs` are those that were taken."""
        self.watermarks: dict[int, int] = {}
        self.watermark_us: int | None = None
        self.emitted = self.repeats = self.skipped = 0
        self._told: int | None = None
        self._told_seqs: dict[int, int] = {}
        self.quiet: Told | None = None
        self._sources = view.sources(partition)
        self._encoder = Encoder(view.name, view.version, topic=view.output_topic, partition=partition)
        self._singles: list[Single] = []
        self._taken: list[Taken] = []
        self._changed: dict[bytes, bytes | None] = {}  # entity to traceparent
        self._gone: set[bytes] = set()
        self._gone_from_store: set[bytes] = set()
        self._captured: Marks | None = None
        self.cold = ColdKeys(Rows())

    @classmethod
    def restored(
        cls, view: View, partition: int, marks: Marks, entries: Sequence[tuple[bytes, bytes | None]],
        cold: Rows | None = None,
    ) -> "ViewPartition":  # fmt: skip
        """The partition as it was captured; raises ValueError for entries of another plan. Cold keys stay away."""
        self = cls(view, partition)
        self.cold = ColdKeys(cold or Rows())
        stored = [(key, blob) for key, blob in entries if blob is not None]
        self.state = ViewState.restore(view.plan, stored, -1 if marks.watermark_us is None else marks.watermark_us)
        self.seqs, self.watermarks = dict(marks.seqs), dict(marks.watermarks)
        self.watermark_us = self._told = marks.watermark_us
        self._told_seqs, self.applied = dict(marks.seqs), dict(marks.seqs)
        self._captured = marks
        self._forget()
        return self

    # in

    def is_repeat(self, source_partition: int, seq: int) -> bool:
        """Whether this event was seen; marks it as seen."""
        if seq <= self.seqs.get(source_partition, -1):
            self.repeats += 1
            return True
        self.seqs[source_partition] = seq
        return False

    def take(self, record: Record, source_partition: int, seq: int, row: Row | None, trace: bytes | None) -> None:
        """An event that is no repeat; None for one that the view does not want."""
        if row is None:
            self.skipped += 1
        else:
            self._singles.append(Single(row, source_partition, seq, trace, record))

    def take_section(self, section: Section, source: int, record: Callable[[int], Record]) -> None:
        """Rows of one record, repeats among them, and what it says of time."""
        if len(section.keys):
            places = np.flatnonzero(fresh(section.seqs, self.seqs.get(source, -1)))
            self.repeats += len(section.keys) - len(places)
            if len(places):
                self._flush()
                taken = of_section(section, source, record)
                self._taken.append(taken if len(places) == len(taken.keys) else taken.those(places))
                self.seqs[source] = int(section.seqs[places[-1]])
        if section.watermark_us is not None:
            self.progress(Progress(source, section.watermark_us, section.seq))

    def take_run(self, run: Run, names: Mapping[str, str]) -> dict[int, str]:
        """Events of one source partition, repeats among them; returns why some cannot be read, by place in the run."""
        source = run.records.partition
        places = np.flatnonzero(run.fresh(self.seqs.get(source, -1)))
        self.repeats += len(run.places) - len(places)
        if not len(places):
            return {}
        run = run.those(places)
        self.seqs[source] = int(run.headers[-1, SEQ])
        self.progress(Progress(source, int(run.headers[:, TIME].max()) - self.view.lateness_us))
        bad: dict[int, str] = {}
        wanted = self.view.needs.read(run.bodies, names, bad)
        self.skipped += len(run.bodies) - len(wanted.places) - len(bad)
        self._flush()
        self._taken.append(run.taken(wanted))
        return {int(places[at]): why for at, why in bad.items()}

    def _flush(self) -> None:
        if self._singles:
            self._taken.append(of_singles(self._singles, len(self.view.plan.fields)))
            self._singles = []

    def progress(self, word: Progress) -> None:
        """A source partition's word on time."""
        known = self.watermarks.get(word.source_partition)
        if known is None or word.time_us > known:
            self.watermarks[word.source_partition] = word.time_us
        if word.seq is not None and word.seq > self.seqs.get(word.source_partition, -1):
            self.seqs[word.source_partition] = word.seq

    @property
    def waiting(self) -> int:
        """Rows that were taken and are not applied."""
        return len(self._singles) + sum(len(taken.keys) for taken in self._taken)

    def wanted(self) -> Wanted | None:
        """Rows of cold keys that `give` must bring before `settle`; nothing while no key is cold."""
        if not self.cold:
            return None
        self._flush()
        missing = self.state.missing(key for taken in self._taken for key in taken.keys)
        low, step = self._coming(), self.view.plan.step_us
        return self.cold.wanted(missing, None if low is None else low // step * step)

    def give(self, wanted: Wanted, found: Found) -> Wanted | None:
        """Take cold keys back; returns what is wanted still."""
        back, dead = self.cold.took(wanted, found)
        self.state.put_back(back)
        self._gone.update(dead)
        self._gone_from_store.update(dead)
        return None if found.page is None else Wanted((), found.page, wanted.until_us)

    def settle(self) -> list[Rejected]:
        """Apply what was taken, then let time pass; returns records that no exact accumulator can hold."""
        rejected = self._apply()
        self.applied = dict(self.seqs)
        low = self._coming()
        if low is not None:
            self.watermark_us = low
            changed = self.state.names(self.state.advance(low).tolist())
            self._changed = {**dict.fromkeys(changed), **self._changed}
            self._forget()
        return rejected

    def _coming(self) -> int | None:
        """The watermark that all sources together have reached, None while it is none or no later one."""
        low = min(self.watermarks.values()) if len(self.watermarks) == len(self._sources) else None
        return None if low is None or (self.watermark_us is not None and low <= self.watermark_us) else low

    def _apply(self) -> list[Rejected]:
        self._flush()
        if not self._taken:
            return []
        rejected: list[Rejected] = []
        taken, self._taken = joined(self._taken), []
        while taken.keys:
            try:
                touched = self.state.names(self._apply_columns(taken))
            except RejectedValuesError as error:
                records = [taken.record(at) for at in sorted(set(error.rows))]
                rejected += [
                    Rejected(record, error.rule) for record in {(r.partition, r.offset): r for r in records}.values()
                ]
                taken = taken.without(error.rows)
                continue
            traces = taken.traced()
            self._changed.update(zip(touched, map(traces.get, touched), strict=True))
            for gone in (self._gone, self._gone_from_store):
                if gone:
                    gone.difference_update(touched)
            break
        return rejected

    def _apply_columns(self, taken: Taken) -> list[int]:
        touched: list[int] = self.state.apply(
            taken.keys, taken.times, taken.marks, taken.values, (taken.sources, taken.seqs)
        ).tolist()
        return touched

    def _forget(self) -> None:
        gone = self.state.expired()
        self._gone.update(gone)
        self._gone_from_store.update(gone)

    # out

    def quiet_until(self, told: Told | None) -> None:
        """Tell nothing before this partition is as far as `told`: readers know all that, and newer things.

        Else a key's last record in the log would be an old one for a while, and compaction keeps the last one.
        """
        self.quiet = told

    def speak(self) -> bool:
        """Tell what there is from now on; whether it was quiet."""
        was_quiet, self.quiet = self._is_quiet(), None
        return was_quiet

    def _is_quiet(self) -> bool:
        told = self.quiet
        if told is None or self.watermark_us is None or self.watermark_us < told.watermark_us:
            return told is not None
        if all(self.seqs.get(source, -1) >= seq for source, seq in told.positions.items()):
            self.quiet = None
        return self.quiet is not None

    def drain(self) -> Outgoing:
        """Everything readers do not know yet: the newest vector of each changed entity, deletions, the watermark.

        A watermark goes with all that is told, so that whoever takes over knows how far that was.
        """
        if self._is_quiet():
            return Outgoing(self._encoder, None, [], None)
        watermark, is_more = None, bool(self._changed or self._gone) and self.seqs != self._told_seqs
        if self.watermark_us is not None and (is_more or self.watermark_us != self._told):
            watermark = self.watermark_us, dict(self.seqs)
            self._told, self._told_seqs = self.watermark_us, dict(self.seqs)
        vectors = self._vectors(self.state, list(self._changed))
        out = Outgoing(self._encoder, vectors, sorted(self._gone), watermark)
        self._changed.clear()
        self._gone.clear()
        self.emitted += out.records
        return out

    def _vectors(self, state: ViewState, entities: list[bytes]) -> Vectors | None:
        rows = state.lookup(entities)
        alive = np.flatnonzero(rows >= 0)
        if not len(alive):
            return None
        known = entities if len(alive) == len(entities) else [entities[n] for n in alive.tolist()]
        values, at, revisions = state.vectors(rows[alive])
        partitions, seqs = state.position_table(rows[alive])
        return Vectors(known, values, at, revisions, partitions, seqs, list(map(self._changed.get, known)))

    def current(self, entity: bytes, cold: Sequence[tuple[bytes, bytes | None]] = ()) -> Letter | None:
        """The entity's vector now, None when it is neither in memory nor among these rows of `cold` keys."""
        state = self.state
        if cold and state.missing([entity]):
            stored = [(key, blob) for key, blob in cold if blob is not None]
            state = ViewState.restore(self.view.plan, stored, state.watermark_us)
        found = self._vectors(state, [entity])
        return None if found is None else self._encoder.vectors(found)[0]

    # store

    def marks(self, next_offset: int) -> Marks:
        """How far this partition is, when its input goes on at `next_offset`."""
        return Marks(next_offset, dict(self.seqs), dict(self.watermarks), self.watermark_us, self.view.input_topic)

    def capture(self, next_offset: int, limit: int | None = None) -> Capture | None:
        """What has changed since the last capture, None for nothing; keys over the limit are to become cold."""
        marks = self.marks(next_offset)
        if marks == self._captured:
            return None
        self._captured = marks
        leaving = {} if limit is None or self.quiet is not None else coldest(self.state, len(self.state) - limit)
        changed = dict(self.state.snapshot_dirty())
        cold = self.cold.chill(leaving, changed.keys(), self._gone_from_store)
        entries: list[tuple[bytes, bytes | None]] = [(key, blob) for key, blob in changed.items() if key not in leaving]
        entries += [(key, None) for key in self._gone_from_store]
        entries += [(row.key, None) for row in cold.put]
        self._gone_from_store.clear()
        return Capture(sorted(entries, key=lambda entry: entry[0]), marks, cold)

    def stored(self) -> None:
        """The last capture is in the store: keys that have not been needed since leave the memory."""
        leaving = self.cold.stored()
        if not leaving:
            return
        rows = unneeded(self.state, {key: due for key, due in leaving.items() if key not in self._changed})
        self.cold.left(self.state.names(rows))
        self.state.let_go(rows)
