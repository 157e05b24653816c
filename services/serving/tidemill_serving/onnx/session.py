"""onnxruntime, one thread per session: bytes that have passed the sandbox become something that scores rows."""

import logging

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tidemill_engine.onnx import golden_inputs
from tidemill_engine.onnx.bitwise import BitForest, bit_forest

_log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
Float32s = NDArray[np.float32]
Quick = tuple[BitForest, onnxruntime.InferenceSession, str]
"""A forest, what follows it in the graph, and the name of the input of that."""
FEW = 2
"""Rows that onnxruntime scores as fast as anybody."""
_PROBES = 4096


class UnusableModelError(ValueError):
    """The bytes cannot be opened as a model of this width, or answer outside of [0, 1] on the golden inputs."""


class Scorer:
    """An opened model from float32 rows [N, F] to a probability [N]."""

    def __init__(self, data: bytes, width: int) -> None:
        """Open and warm; raises UnusableModelError."""
        self._forest: Quick | None = None
        try:
            self._session = session(data)
            self._input, self._output = self._ports(width)
        except Exception as error:  # noqa: BLE001 - onnxruntime raises whatever its C++ side does
            raise UnusableModelError(f"not a model that can be opened: {brief(error)}") from None
        self.width = width
        self.check()

    def _ports(self, width: int) -> tuple[str, str]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            raise UnusableModelError("a model takes one float32 input")
        shape = inputs[0].shape
        if len(shape) != 2 or (isinstance(shape[1], int) and shape[1] != width):  # noqa: PLR2004 - rows and features
            raise UnusableModelError(f"the input is {shape}, not rows of {width} features")
        return inputs[0].name, outputs[0].name

    def check(self) -> None:
        """Run the golden inputs; raises UnusableModelError for an answer that is not a probability."""
        rows = golden_inputs(self.width)
        scores = self.scores(rows)
        if not is_probability(scores).all():
            raise UnusableModelError("an answer on the golden inputs is not a probability")
        for size in (1, 2):
            self.scores(rows[:size])

    def stoppable(self) -> "StoppableScorer":
        """The same model, in runs that can be stopped."""
        return StoppableScorer(self)

    def quicken(self, data: bytes, *, is_proven: bool = False) -> bool:
        """Score batches with trees of our own if the model is a forest and they give the same bits; whether they do.

        `data` are the bytes that this was opened from, after they have shown themselves harmless; `is_proven` when
        the bits were compared in the sandbox, and only a few need be looked at. At batches of strangers onnxruntime's
        trees wait for mispredicted branches most of the time. What follows the trees in the graph stays with
        onnxruntime.
        """
        try:
            forest = bit_forest(data, self.width)
            if forest is None:
                return False
            rest = session(forest.rest)
            found = forest, rest, rest.get_inputs()[0].name
            rows = golden_inputs(self.width)
            if not is_proven:
                rows = np.concatenate((rows, forest.probes(self.width, _PROBES)))
            for size in (FEW + 1, len(rows) // 3, len(rows)):
                if self._by_forest(found, rows[-size:]).tobytes() != self._run(rows[-size:]).tobytes():
                    _log.warning("a forest has other answers by trees of our own, and is left to onnxruntime")
                    return False
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, onnxruntime has opened the model
            _log.warning("a forest is left to onnxruntime: %s", brief(error))
            return False
        self._forest = found
        return True

    def _by_forest(
        self, by: Quick, rows: Float32s, options: "onnxruntime.RunOptions | None" = None
    ) -> NDArray[np.generic]:
        forest, rest, name = by
        return np.asarray(rest.run([self._output], {name: forest.raw_scores(rows)}, options)[0])

    def _run(self, rows: Float32s, options: "onnxruntime.RunOptions | None" = None) -> NDArray[np.generic]:
        return np.asarray(self._session.run([self._output], {self._input: rows}, options)[0])

    def scores(self, rows: Float32s, options: "onnxruntime.RunOptions | None" = None) -> Floats:
        """Scores [N] of rows [N, F]; raises UnusableModelError where the model fails or answers another shape."""
        try:
            by = None if len(rows) <= FEW else self._forest
            scores = self._run(rows, options) if by is None else self._by_forest(by, rows, options)
        except Exception as error:  # noqa: BLE001 - see above
            raise UnusableModelError(f"the model failed: {brief(error)}") from None
        if scores.size != len(rows) or not np.issubdtype(scores.dtype, np.floating):
            raise UnusableModelError(f"{scores.dtype} {list(scores.shape)} for {len(rows)} rows")
        return scores.reshape(len(rows)).astype(np.float64)


class StoppableScorer:
    """Runs of one model, one at a time, that another thread may stop."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._options = onnxruntime.RunOptions()

    def scores(self, rows: Float32s) -> Floats:
        """As `Scorer.scores`; raises UnusableModelError when it was stopped."""
        self._options = onnxruntime.RunOptions()
        return self._scorer.scores(rows, self._options)

    def stop(self) -> None:
        """The run under way ends with its present node."""
        self._options.terminate = True


def session(data: bytes) -> onnxruntime.InferenceSession:
    """An open session of one thread that says nothing on standard error; raises whatever onnxruntime does."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4
    # A worker that waits for the next batch must not keep the core busy meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def is_probability(scores: Floats) -> NDArray[np.bool_]:
    """Which scores may be given as an answer; NaN may not."""
    with np.errstate(invalid="ignore"):
        return np.asarray((scores >= 0.0) & (scores <= 1.0))


def brief(error: Exception) -> str:
    """The first line of what onnxruntime says."""
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
