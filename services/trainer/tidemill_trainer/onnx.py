"""Scores of canonical models by onnxruntime, single-threaded: what serving will answer."""

import numpy as np
import onnxruntime

from tidemill_engine.onnx import INPUT, OUTPUT
from tidemill_trainer.domain.rows import Float32s, Floats

_BATCH = 8192


def onnx_scores(model: bytes, features: Float32s) -> Floats:
    """Probabilities [N] of rows [N, F]; raises whatever onnxruntime raises for a model it cannot run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    parts = [session.run([OUTPUT], {INPUT: features[i : i + _BATCH]})[0] for i in range(0, len(features), _BATCH)]
    return np.concatenate(parts).astype(np.float64) if parts else np.zeros(0)
