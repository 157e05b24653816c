"""What a model must show in the sandbox beyond its answers to the golden inputs: that it scores rows, and only rows.

A micro-batch puts rows of strangers together, so an answer may not depend on its neighbours, nor on a die, nor on what
was asked before; and one row may not hold the process up for long.
"""

import time

import numpy as np

from tidemill_engine.onnx import golden_inputs
from tidemill_serving.onnx.session import Scorer, UnusableModelError, is_probability

CLOSE = 1e-5
"""A library may add up in another order for another number of rows; it may not come to another answer."""
SLOWEST_ROW_S = 0.25
"""Of processor time, for the quickest of three: a batch behind it would wait as long."""
BATCH = 64
_TRIES = 3


def prove(scorer: Scorer) -> None:
    """Return when answers repeat and belong to their rows; raises UnusableModelError with what is wrong."""
    _time(scorer)
    rows = golden_inputs(scorer.width)
    together = scorer.scores(rows)
    if not np.array_equal(together, scorer.scores(rows)):
        raise UnusableModelError("the same rows have other answers when they are asked again")
    alone = np.concatenate([scorer.scores(rows[at : at + 1]) for at in range(len(rows))])
    backwards = scorer.scores(np.ascontiguousarray(rows[::-1]))[::-1]
    if max(np.abs(together - alone).max(), np.abs(together - backwards).max()) > CLOSE:
        raise UnusableModelError("the answer to a row depends on the rows beside it")
    many = scorer.scores(np.resize(rows, (BATCH, scorer.width)))
    if not is_probability(many).all():
        raise UnusableModelError(f"an answer in a batch of {BATCH} rows is not a probability")


def _time(scorer: Scorer) -> None:
    row, quickest = golden_inputs(scorer.width)[:1], np.inf
    for _ in range(_TRIES):
        started = time.process_time()
        scorer.scores(row)
        quickest = min(quickest, time.process_time() - started)
    if quickest > SLOWEST_ROW_S:
        raise UnusableModelError(f"one row costs {quickest:.2f} s of processor time, more than {SLOWEST_ROW_S:g}")
