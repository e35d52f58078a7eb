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
from serving.server.telemetry.losses import Losses, SdkWords, Signal

# Bytes of an answer. Those that collectors give have a sentence at most.
_MOST_BYTES = 64 << 10
_PROTOBUF = "application/x-protobuf"


class CollectorSession(Session):
    """Sends a signal, and counts the part of it that a collector rejects. Its requests raise for an
    answer that no collector gives, and for a redirect."""

    def __init__(self, signal: Signal, losses: Losses, words: SdkWords) -> None:
        super().__init__()
        self._signal: Signal = signal
        self._losses, self._words = losses, words
        # The body of an answer is read below.
        self.stream = True
        self.headers["Accept-Encoding"] = "identity"
        # A collector that sets cookies fills no memory.
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))

    def request(self, *args: Any, **settings: Any) -> Response:
        """`Session.request`; reads the answer within `timeout`."""
        try:
            response = super().request(*args, **settings)
            with response:
                self._check(response, _read(response, settings["timeout"]))
        except Exception as error:
            # The SDK gives the reason where it tries again, and not where the time is over.
            self._words.add(f"{type(error).__name__}: {error}")
            raise
        return response

    def _check(self, response: Response, body: bytes) -> None:
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if not response.ok:
            self._words.add(f"status {response.status_code} {response.reason}")
        elif response.status_code >= 300:
            there = quoted(response.headers.get("Location", ""))
            raise RequestException(f"a redirect to {there} is not followed")
        elif kind == "text/html":
            raise RequestException("the answer is a page of text/html, and none of a collector")
        elif kind == _PROTOBUF and "Content-Encoding" not in response.headers:
            _count(self._signal, body, self._losses)


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
