"""The connection to a collector. Of its answers the SDK looks at the status alone, and takes one of
300 to 399 for a success too."""

import time
from http.cookiejar import DefaultCookiePolicy
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests import RequestException, Response, Session

from serving.base.errors import quoted
from serving.server.telemetry.losses import Losses, Signal

# Bytes of an answer. Those that collectors give have a sentence at most.
_MOST_BYTES = 64 << 10
_PROTOBUF = "application/x-protobuf"


def collector_session(signal: Signal, losses: Losses) -> Session:
    """Sends a signal, and counts those that the collector rejects. Its requests raise
    RequestException for an answer that no collector gives, and for a redirect."""

    def check(response: Response, **settings: Any) -> None:
        with response:
            body = _read(response, settings["timeout"])
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if 300 <= response.status_code < 400:
            raise RequestException(
                f"a redirect to {quoted(response.headers.get('Location', ''))} is not followed"
            )
        if not response.ok:
            return
        if kind == "text/html":
            raise RequestException("the answer is a page of text/html, and none of a collector")
        if kind == _PROTOBUF and "Content-Encoding" not in response.headers:
            _count(signal, body, losses)

    session = Session()
    # `check` reads answers; the session would read them whole.
    session.stream = True
    session.hooks["response"] = [check]
    session.headers["Accept-Encoding"] = "identity"
    # A collector that sets cookies fills no memory.
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return session


def _read(response: Response, seconds: float) -> bytes:
    """The body of an answer, which takes so many seconds at most."""
    end = time.monotonic() + seconds
    body = b""
    while part := response.raw.read1(_MOST_BYTES):
        body += part
        if len(body) > _MOST_BYTES or time.monotonic() > end:
            raise RequestException(
                f"the answer has {len(body)} bytes or more; expected {_MOST_BYTES} at most, "
                f"within {seconds:.3g} s"
            )
    return body


def _count(signal: Signal, body: bytes, losses: Losses) -> None:
    try:
        if signal == "spans":
            spans = ExportTraceServiceResponse.FromString(body).partial_success
            lost = rejected = spans.rejected_spans
            reason = spans.error_message
        else:
            metrics = ExportMetricsServiceResponse.FromString(body).partial_success
            rejected = metrics.rejected_data_points
            lost, reason = min(rejected, 1), metrics.error_message
    except DecodeError as error:
        raise RequestException(f"the answer is none of a collector of {signal}") from error
    if rejected > 0:
        losses.count(signal, lost, f"the collector rejects {rejected} of a request: {reason}")
