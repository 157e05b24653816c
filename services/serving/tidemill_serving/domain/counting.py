"""What a batch of rows adds to a model's statistics. Pure."""

from collections.abc import Sequence

from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Drafts
from tidemill_serving.domain.house import House
from tidemill_serving.domain.tensors import RowsQuery


def count_rows(
    house: House, desk: Desk, queries: Sequence[RowsQuery], drafts: Drafts, times: tuple[int, float, float]
) -> Drafts:  # fmt: skip
    """The drafts, counted. `times`: now in milliseconds, and for how many seconds the batch has waited and computed."""
    active = desk.champion.active
    if active is None:
        return drafts
    now_ms, waited_s, computed_s = times
    house.statistics.batch(
        (desk.spec.name, str(active.leader.version)), rows=sum(query.rows.height for query in queries),
        requests=len(queries), failed=sum(isinstance(result, RefusedError) for result in drafts.results),
        times=(now_ms, int(waited_s * 1e9), int(computed_s * 1e9)),
    )  # fmt: skip
    return drafts
