"""What must be true at the end, whoever was killed: every value that was told, and the state that is stored."""

from collections import Counter
from collections.abc import Mapping, Sequence

from features_cases import Stream, views
from features_history import COUNT, History, Logged, Oracle, direct_log, routed_log
from features_stack import Stack

from tidemill_features.domain.aggregate import ViewPartition
from tidemill_features.domain.cold import NEVER, Wanted
from tidemill_features.domain.views import View
from tidemill_features.store import Store
from tidemill_runtime.artifacts import Artifacts
from tidemill_runtime.postgres import open_pool


async def check_everything(stack: Stack, stream: Stream, found: Mapping[str, History], until_us: int) -> int:
    """0 lost, 0 doubled, no value that the undisturbed run does not have; returns how many values were compared.

    Nothing may run any more: the stored state is read.
    """
    stored, checked = await stored_digests(stack), 0
    for view in views(stack.spec).values():
        history = found[view.name]
        assert not history.contradictions, (view.name, history.contradictions[:5])
        assert not history.fallen, f"{view.name}: an old vector behind a newer one: {history.fallen[:5]}"
        inputs = await logs(stack, view, stream)
        lost, doubled = compared([item for log in inputs.values() for item in log], view, stream)
        assert (lost, doubled) == ([], []), f"{view.name}: lost {lost[:9]}, doubled {doubled[:9]} on its way"
        for partition, log in inputs.items():
            oracle = Oracle(view, history)
            oracle.check(log)
            assert not oracle.wrong, (view.name, partition, oracle.wrong[:5])
            assert stored[view.name, partition] == oracle.digest(until_us), (view.name, partition)
            checked += oracle.checked
        told = {entity: revision & COUNT for entity, revision in history.newest.items()}
        assert told == Counter(item.row.key for log in inputs.values() for item in log), view.name
    assert checked == sum(history.vectors() for history in found.values()), "told vectors of unknown events"
    return checked


def compared(log: Sequence[Logged], view: View, stream: Stream) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Events by source partition and number that the view wants and its input lacks, and those that it has twice."""
    wanted = {(e.partition, e.seq) for e in stream.all if view.read(e.id, e.time_us, e.body) is not None}
    counts = Counter((item.source, item.seq) for item in log)
    return sorted(wanted - counts.keys()), sorted(place for place, count in counts.items() if count > 1)


async def logs(stack: Stack, view: View, stream: Stream) -> dict[int, list[Logged]]:
    """The view's input by partition."""
    if view.repartitioned:
        return await routed_log(stack.settings, view)
    return {partition: list(direct_log(view, events)) for partition, events in stream.by_partition.items()}


async def stored_digests(stack: Stack) -> dict[tuple[str, int], str]:
    """SHA-256 of the state that a new owner would restore, by view and partition."""
    pool = await open_pool(stack.postgres)
    try:
        store, found = Store(pool, Artifacts(stack.settings.artifacts)), {}
        for partition in range(stack.spec.partitions):
            owner = await store.own(partition)
            for view in views(stack.spec).values():
                marks, entries = await store.load(owner, view)
                entries += await cold_entries(store, view, partition)
                found[view.name, partition] = ViewPartition.restored(view, partition, marks, entries).state.digest()
        return found
    finally:
        await pool.close()


async def cold_entries(store: Store, view: View, partition: int) -> list[tuple[bytes, bytes]]:
    """All rows of cold keys."""
    keys, wanted = list[bytes](), Wanted((), (0, b""), NEVER)
    while True:
        found = await store.fetch(view, partition, wanted)
        keys += [key for key, _ in found.rows]
        if found.page is None:
            break
        wanted = wanted._replace(since=found.page)
    return [(key, blob or b"") for key, blob in (await store.fetch(view, partition, Wanted(keys))).rows]
