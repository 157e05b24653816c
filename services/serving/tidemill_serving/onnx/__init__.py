"""Models as ONNX: opened in a limited child process first, then here."""

from tidemill_serving.onnx.session import Scorer, UnusableModelError

__all__ = ["Scorer", "UnusableModelError"]
