"""Whatever a collector answers: spans that it did not take are counted, in bounded memory."""

import http.client
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trustme
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData

from serving.base.metrics import FrontMetrics
from serving.server.telemetry.collector import CollectorSession
from serving.server.telemetry.losses import Losses, SdkWords
from tests.serving.server.telemetry.test_spans import Sent, lines

Answer = Callable[[socket.socket], None]
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\n"


def whole(body: bytes, head: bytes = _OK) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


@contextmanager
def answering(
    answer: bytes | Answer,
    context: ssl.SSLContext | None = None,
    heads: list[http.client.HTTPMessage] | None = None,
) -> Iterator[str]:
    """The address of a server that gives this answer to every request. One that is a function
    writes by itself, and the connection ends after it. heads: of the requests, with their peer."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            try:
                server: ssl.SSLSocket | socket.socket = self.request
                if context is not None:
                    server = context.wrap_socket(self.request, server_side=True)
                self._serve(server)
            except OSError:
                return  # the exporter has gone

        def _serve(self, server: socket.socket) -> None:
            sent = server.makefile("rb")
            while line := sent.readline():
                assert line.startswith(b"POST /v1/")
                head = http.client.parse_headers(sent)
                sent.read(int(head["Content-Length"]))
                if heads is not None:
                    head["peer"] = str(self.client_address)
                    heads.append(head)
                if not isinstance(answer, bytes):
                    answer(server)
                    return
                server.sendall(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        scheme = "http" if context is None else "https"
        try:
            yield f"{scheme}://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def sender(url: str, timeout: float = 5.0) -> Sent:
    """Sends spans over the session of servers."""
    losses, words = Losses(FrontMetrics().telemetry_lost), SdkWords()
    session = CollectorSession("spans", losses, words)
    exporter = OTLPSpanExporter(f"{url}/v1/traces", session=session, timeout=timeout)
    return Sent(exporter, losses, words)


def endless(server: socket.socket) -> None:
    server.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        server.sendall(b"x" * 65536)


def dripping(server: socket.socket) -> None:
    server.sendall(_OK + b"Content-Length: 60000\r\n\r\n")
    while True:
        server.sendall(b"x")
        threading.Event().wait(0.05)


_REJECTS = ExportTraceServiceResponse()
_REJECTS.partial_success.rejected_spans = 2
_REJECTS.partial_success.error_message = "too old"
_HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"
_MOVED = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://elsewhere/v1/traces\r\n"


@pytest.mark.parametrize(
    ("answer", "lost", "reason"),
    [
        (whole(b""), 0, ""),
        (whole(ExportTraceServiceResponse().SerializeToString()), 0, ""),
        (whole(b"{}", b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), 0, ""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0, ""),
        (whole(_REJECTS.SerializeToString()), 2, "the collector rejects 2 of a request: too old"),
        (whole(b"\xff\xff"), 3, "the answer is none of a collector of spans"),
        (whole(b"<html>", _HTML), 3, "a page of text/html"),
        (whole(b"", _MOVED), 3, "a redirect to 'http://elsewhere/v1/traces' is not followed"),
        (whole(b"no", b"HTTP/1.1 401 Unauthorized\r\n"), 3, "status 401 Unauthorized"),
        (endless, 3, "expected 65536 at most"),
        (_OK + b"Content-Length: 9\r\n\r\n" + b"x" * 9 + b"\0" * 99_999, 3, "none of a collector"),
        (lambda server: server.sendall(_OK + b"Content-Length: 9\r\n\r\nx"), 3, "IncompleteRead"),
    ],
)
def test_answer_says_which_spans_are_lost(
    answer: bytes | Answer, lost: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with answering(answer) as url, lines(caplog) as said:
        sent = sender(url)
        for _ in range(3):
            sent.call()
        sent.flush()
        sent.losses.log()
    assert sent.lost == lost
    assert len(said) == bool(lost)
    assert all(reason in vars(line)["reason"] for line in said)


@pytest.mark.parametrize(
    "answer",
    [
        lambda server: None,
        lambda server: server.sendall(b"HTTP/1.1 2"),
        lambda server: server.sendall(b"SSH-2.0-OpenSSH_9.2\r\n"),
        lambda server: server.shutdown(socket.SHUT_RDWR),
        dripping,
    ],
)
def test_connection_that_gives_no_answer_costs_its_spans(answer: Answer) -> None:
    with answering(answer) as url:
        sent = sender(url, timeout=0.3)
        sent.call()
        sent.flush()
    assert sent.lost == 1


def test_collector_without_the_certificate_gets_no_span(caplog: pytest.LogCaptureFixture) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with answering(whole(b""), context=context) as url, lines(caplog) as said:
        sent = sender(url, timeout=0.3)
        sent.call()
        sent.flush()
    assert sent.lost == 1
    assert "certificate verify failed" in vars(said[0])["reason"]


def test_reason_is_told_where_the_time_for_a_second_try_is_short(
    caplog: pytest.LogCaptureFixture,
) -> None:
    busy = whole(b"", b"HTTP/1.1 503 Busy\r\nRetry-After: 9999\r\n")
    with answering(busy) as url, lines(caplog) as said:
        sent = sender(url)
        sent.call()
        sent.flush()
    assert vars(said[0])["reason"] == "status 503 Busy"


def test_connection_is_kept_and_cookies_are_not() -> None:
    heads: list[http.client.HTTPMessage] = []
    cookie = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n"
    with answering(whole(b"", cookie), heads=heads) as url:
        sent = sender(url)
        for _ in range(3):
            sent.call()
            sent.spans._processor.force_flush()
        sent.flush()
    assert len(heads) == 3
    assert len({head["peer"] for head in heads}) == 1
    assert not any(head["cookie"] for head in heads)


def test_points_of_metrics_that_are_rejected_cost_one_export() -> None:
    rejects = ExportMetricsServiceResponse()
    rejects.partial_success.rejected_data_points = 7
    losses = Losses(FrontMetrics().telemetry_lost)
    session = CollectorSession("metrics", losses, SdkWords())
    with answering(whole(rejects.SerializeToString())) as url:
        exporter = OTLPMetricExporter(f"{url}/v1/metrics", session=session)
        assert exporter.export(MetricsData([])) is MetricExportResult.SUCCESS
    assert losses._tally.labels("metrics").value == 1
