"""The Open Inference Protocol over gRPC."""

from tidemill_serving.api.rpc.server import RpcServer, RpcSettings

__all__ = ["RpcServer", "RpcSettings"]
