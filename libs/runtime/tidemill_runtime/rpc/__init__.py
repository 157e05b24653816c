"""gRPC over HTTP/2 as an asyncio protocol: calls that arrive together are begun together, and no thread takes part."""

from tidemill_runtime.rpc.calls import Quick, Streaming, Unary
from tidemill_runtime.rpc.limits import Limits
from tidemill_runtime.rpc.server import GrpcServer
from tidemill_runtime.rpc.status import Code, StatusError
from tidemill_runtime.rpc.stream import Method, Stream

__all__ = ["Code", "GrpcServer", "Limits", "Method", "Quick", "StatusError", "Stream", "Streaming", "Unary"]
