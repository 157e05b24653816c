"""The Open Inference Protocol without a transport: tensors of every datatype, requests, answers, what a model says.

https://github.com/kserve/open-inference-protocol, with Triton's extension for binary tensors:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md.
"""

from tidemill_serving.domain.protocol.datatypes import Port, Tensor
from tidemill_serving.domain.protocol.reading import Call, Wanted, read_call
from tidemill_serving.domain.protocol.rendering import Outcome, Rendering, chosen

__all__ = ["Call", "Outcome", "Port", "Rendering", "Tensor", "Wanted", "chosen", "read_call"]
