"""What the Open Inference Protocol calls a model: a pipeline's champion, from rows of features to a probability."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tidemill_serving.domain.bodies import INPUT, MAXIMUM_ROWS, OUTPUT
from tidemill_serving.domain.body import RefusedError
from tidemill_serving.domain.desk import Desk, Loaded, Result
from tidemill_serving.domain.protocol import Call, Outcome, Port, Tensor, chosen
from tidemill_serving.domain.tensors import Rows, RowsQuery, Scored, matrix_rows

Render = Callable[[Outcome], bytes]
NO_MODEL = RefusedError(404, "no such model", "no such model, or none of that version")


class Description(NamedTuple):
    """What a model says of itself."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[Port]
    outputs: list[Port]


class Ask(NamedTuple):
    """A call on its way: the answer's id in the log, the trace it belongs to, and who makes its body."""

    call: Call
    identity: str
    traceparent: str
    render: Render


class Served(Protocol):
    """A model that can be asked."""

    @property
    def version(self) -> str: ...

    def describe(self) -> Description:
        """Name, versions, inputs and outputs."""

    async def infer(self, ask: Ask) -> Result:
        """The body, or why there is none; raises RefusedError as well."""


class RowTicks(Protocol):
    """Where the rows of one tick come together."""

    async def answer_rows(self, desk: Desk, query: RowsQuery) -> Result:
        """The result; raises RefusedError where there is no room."""

    def submit_rows(self, desk: Desk, query: RowsQuery, deliver: Callable[[Result], None]) -> None:
        """As `answer_rows`; the result goes to `deliver`."""


class PipelineModel:
    """A pipeline's active release. `wanted` is the version that the request names: else a swap may come first."""

    def __init__(self, desk: Desk, active: Loaded, ticks: RowTicks, wanted: str | None = None) -> None:
        self._desk, self._active, self._ticks, self._wanted = desk, active, ticks, wanted

    @property
    def version(self) -> str:
        """The leading member's."""
        return str(self._active.leader.version)

    def describe(self) -> Description:
        """As `Served`."""
        inputs = [Port(INPUT, "FP32", [-1, len(self._active.plan.features)])]
        outputs = [Port(OUTPUT, "FP32", [-1])]
        return Description(self._desk.spec.name, [self.version], "onnx_onnxv1", inputs, outputs)

    async def infer(self, ask: Ask) -> Result:
        """As `Served`."""
        return await self._ticks.answer_rows(self._desk, self._query(ask))

    def submit(self, ask: Ask, deliver: Callable[[Result], None]) -> None:
        """As `infer`; the result goes to `deliver`."""
        self._ticks.submit_rows(self._desk, self._query(ask), deliver)

    def _query(self, ask: Ask) -> RowsQuery:
        call = ask.call
        given = chosen([OUTPUT], call.outputs)
        rows = rows_of(call, len(self._active.plan.features))
        return RowsQuery(rows, ask.identity, ask.traceparent, self._wanted, _Probability(ask.render, given))


class _Probability:
    """Makes the answer's body from the scores."""

    __slots__ = ("_given", "_render")

    def __init__(self, render: Render, given: Sequence[str]) -> None:
        self._render, self._given = render, given

    def __call__(self, scored: Scored) -> bytes:
        values = np.array(scored.scores)
        outputs = [Tensor(name, "FP32", values) for name in self._given]
        return self._render(Outcome(scored.model, scored.version, scored.id, scored.identity, outputs))


def rows_of(call: Call, width: int) -> Rows:
    """The rows of features in a call; raises RefusedError 400."""
    if call.tensors.keys() != {INPUT}:
        raise RefusedError(400, "inputs", f"the model takes one input, {INPUT}")
    values = call.tensors[INPUT].values
    if call.tensors[INPUT].datatype not in {"FP32", "FP64"}:
        raise RefusedError(400, "datatype", f"{INPUT} must be FP32 or FP64")
    if values.ndim != 2 or values.shape[1] != width or not 1 <= len(values) <= MAXIMUM_ROWS:  # noqa: PLR2004 - a matrix
        raise RefusedError(400, "shape", f"{INPUT} must have the shape [1 to {MAXIMUM_ROWS}, {width}]")
    with np.errstate(over="ignore"):
        singles = values.astype(np.float32, copy=False)
    if not np.isfinite(singles).all():
        raise RefusedError(400, "range", f"{INPUT} must hold {values.size} finite numbers")
    return matrix_rows(values, call.id, call.tensors[INPUT].datatype)
