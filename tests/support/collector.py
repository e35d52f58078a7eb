"""A collector of OTLP over HTTP that keeps what it gets, and rotel, one that others made."""

import gzip
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import rotel
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

SECONDS = 30.0


def values_of(attributes: Any) -> dict[str, Any]:
    """Attributes as plain values."""
    found = {}
    one: KeyValue
    for one in attributes:
        found[one.key] = getattr(one.value, one.value.WhichOneof("value") or "string_value")
    return found


class Collector:
    """Takes spans and metrics.

    spans: all of them, each with the attributes of its resource.
    metrics: the newest by name.
    requests: bodies as they came, by path.
    status: of its answers.
    held: while it is not set, nobody gets an answer.
    """

    def __init__(self) -> None:
        self.spans: list[tuple[dict[str, Any], Span]] = []
        self.metrics: dict[str, Metric] = {}
        self.requests: list[tuple[str, bytes]] = []
        self.status = 200
        self.held = threading.Event()
        self.held.set()
        self._news = threading.Condition()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers["Content-Encoding"] == "gzip":
                    body = gzip.decompress(body)
                collector._take(self.path, body)
                collector.held.wait(SECONDS)
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def _take(self, path: str, body: bytes) -> None:
        with self._news:
            self.requests.append((path, body))
            if path == "/v1/traces":
                traces = ExportTraceServiceRequest.FromString(body)
                for resource in traces.resource_spans:
                    described = values_of(resource.resource.attributes)
                    for scope in resource.scope_spans:
                        self.spans += [(described, span) for span in scope.spans]
            elif path == "/v1/metrics":
                metrics = ExportMetricsServiceRequest.FromString(body)
                for found in metrics.resource_metrics:
                    for scope in found.scope_metrics:
                        self.metrics |= {metric.name: metric for metric in scope.metrics}
            self._news.notify_all()

    def until(self, condition: Callable[[], Any]) -> Any:
        """What a condition returns, once it is true."""
        with self._news:
            assert self._news.wait_for(condition, SECONDS), [s.name for _, s in self.spans]
            return condition()

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace, in the order of their begin."""
        found = [span for _, span in self.spans if span.trace_id.hex() == trace_id]
        return sorted(found, key=lambda span: span.start_time_unix_nano)

    def batch_with(self, call: Span) -> Span | None:
        """The batch that links a call."""
        for _, span in self.spans:
            if span.name == "batch" and any(one.span_id == call.span_id for one in span.links):
                return span
        return None

    def __enter__(self) -> "Collector":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def rotel_before(collector: Collector, folder: Path) -> Iterator[str]:
    """The address of a rotel that sends all that it gets on to a collector."""
    grpc_port, http_port = _free_port(), _free_port()
    with (folder / "rotel.log").open("w") as log:
        process = subprocess.Popen(
            [
                Path(rotel.__file__).with_name("rotel-agent"), "start",
                "--pid-file", folder / "rotel.pid",
                "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}",
                "--otlp-http-endpoint", f"127.0.0.1:{http_port}",
                "--exporter", "otlp", "--otlp-exporter-protocol", "http",
                "--otlp-exporter-endpoint", collector.url,
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        _wait_for_port(process, http_port)
        yield f"http://127.0.0.1:{http_port}"
    finally:
        process.terminate()
        process.wait(SECONDS)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def _wait_for_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    end = time.monotonic() + SECONDS
    while True:
        assert process.poll() is None
        assert time.monotonic() < end
        with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.01)  # no event tells of another's port
