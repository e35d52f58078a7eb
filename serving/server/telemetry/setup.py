"""Traces and metrics, as the settings of OpenTelemetry in the environment say."""

import asyncio
import os
import time
import uuid

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_METRICS_PROTOCOL,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from serving.base.counting.totals import Totals
from serving.base.metrics import FrontMetrics
from serving.server.config import StartError
from serving.server.telemetry.losses import Losses, SdkWords
from serving.server.telemetry.metrics import MetricsSender
from serving.server.telemetry.spans import Spans
from serving.server.telemetry.tracing import Tracing

# The exporter of a signal, and the variable of its protocol.
_TRACES = "OTEL_TRACES_EXPORTER", OTEL_EXPORTER_OTLP_TRACES_PROTOCOL
_METRICS = "OTEL_METRICS_EXPORTER", OTEL_EXPORTER_OTLP_METRICS_PROTOCOL
_PROTOCOL = "http/protobuf"


class Telemetry:
    """Sends traces and metrics to a collector.

    tracing: traces calls; None where the environment has no traces.
    """

    def __init__(self, metrics: FrontMetrics, totals: Totals, version: str) -> None:
        """Raises StartError for an environment that asks for something that is not offered."""
        traces, numbers = _asked(*_TRACES), _asked(*_METRICS)
        resource = _resource(version)
        losses = Losses(metrics.telemetry_lost)
        self.tracing: Tracing | None = None
        self._spans: Spans | None = None
        self._sender: MetricsSender | None = None
        self._sending: asyncio.Task[None] | None = None
        try:
            span_exporter = OTLPSpanExporter() if traces else None
            metric_exporter = OTLPMetricExporter() if numbers else None
        except (ValueError, OSError) as error:
            raise StartError(f"--otel: {error}") from error
        words = SdkWords()
        if span_exporter is not None:
            self._spans = Spans(span_exporter, losses, words)
            self.tracing = Tracing(resource, version, self._spans)
        if metric_exporter is not None:
            self._sender = MetricsSender(metric_exporter, totals, resource, version, losses, words)

    def start(self) -> None:
        """Begins to send metrics."""
        if self._sender is not None:
            self._sending = asyncio.create_task(self._sender.run())

    async def stop(self) -> None:
        """Sends metrics for the last time; no call comes any more."""
        if self._sending is not None:
            self._sending.cancel()
        if self._sender is not None:
            await self._sender.send()
        if self.tracing is not None:
            self.tracing.batches.close()

    def flush(self, seconds: float) -> None:
        """Waits until all is sent, for so many seconds at most."""
        end = time.monotonic() + seconds
        if self._spans is not None:
            self._spans.flush(seconds)
        if self._sender is not None:
            self._sender.close(max(0.0, end - time.monotonic()))


def _asked(variable: str, protocol: str) -> bool:
    """Whether a signal is sent. Raises StartError for a way that is not offered."""
    if os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true":
        return False
    exporter = os.environ.get(variable) or "otlp"
    if exporter not in ("otlp", "none"):
        raise StartError(f"{variable}: expected otlp or none, got {exporter[:80]!r}")
    name = protocol if os.environ.get(protocol) else OTEL_EXPORTER_OTLP_PROTOCOL
    spoken = os.environ.get(name) or _PROTOCOL
    if exporter == "otlp" and spoken != _PROTOCOL:
        raise StartError(f"{name}: expected {_PROTOCOL}, got {spoken[:80]!r}")
    return exporter == "otlp"


def _resource(version: str) -> Resource:
    """Describes this server; the environment's description goes before ours."""
    ours = {
        "service.name": "convserve",
        "service.version": version,
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource.create(dict(ours)).merge(OTELResourceDetector().detect())
