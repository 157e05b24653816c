"""An OTLP/HTTP receiver inside a test: keeps every span and metric that is posted to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric  # noqa: TC002 - one import block
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Receiver:
    """What arrived so far: (service name, span) pairs and metrics by name (the newest export of each)."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, Span]] = []
        self.metrics: dict[str, Metric] = {}
        self.endpoint = ""

    def named(self, name: str) -> list[Span]:
        """The spans of a name, of whatever service."""
        return [span for _, span in list(self.spans) if span.name == name]

    def take(self, path: str, body: bytes) -> None:
        """Keep the content of one request."""
        if path.endswith("/v1/traces"):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    self.spans += [(attributes.get("service.name", ""), span) for span in scope.spans]
        elif path.endswith("/v1/metrics"):
            for measured in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for metrics in measured.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in metrics.metrics}


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """A receiver on a free port of the loopback interface; `endpoint` is its base URL."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.path, self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    receiver.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
