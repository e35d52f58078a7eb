"""Traces and metrics, as the settings of OpenTelemetry in the environment say."""

import asyncio
import logging
import time
import uuid

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from serving.base.counting.totals import Totals
from serving.base.metrics import FrontMetrics
from serving.server.config import StartError
from serving.server.telemetry.collector import CollectorSession
from serving.server.telemetry.environment import asked
from serving.server.telemetry.losses import Losses, SdkWords
from serving.server.telemetry.metrics import MetricsSender
from serving.server.telemetry.spans import Spans
from serving.server.telemetry.tracing import Tracing

logger = logging.getLogger(__name__)


class Telemetry:
    """Sends traces and metrics to a collector.

    tracing: traces calls; None where the environment has no traces.
    """

    def __init__(self, metrics: FrontMetrics, totals: Totals, version: str) -> None:
        """Raises StartError for an environment that asks for something that is not offered."""
        self.tracing: Tracing | None = None
        self._spans: Spans | None = None
        self._sender: MetricsSender | None = None
        self._sending: asyncio.Task[None] | None = None
        self._losses = losses = Losses(metrics.telemetry_lost)
        words = SdkWords()
        signals = asked()
        words.listen()
        try:
            resource = _resource(version)
            if "TRACES" in signals:
                session = CollectorSession("spans", losses, words)
                self._spans = Spans(OTLPSpanExporter(session=session), losses, words)
                self.tracing = Tracing(resource, version, self._spans)
            if "METRICS" in signals:
                session = CollectorSession("metrics", losses, words)
                exporter = OTLPMetricExporter(session=session)
                self._sender = MetricsSender(exporter, totals, resource, version, losses, words)
        except (ValueError, OSError) as error:
            raise StartError(f"--otel: {error}") from error
        if said := words.heard():
            logger.warning("setting ignored", extra={"reason": said})

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
        """Waits until all is sent, for so many seconds at most, and logs the rest as lost."""
        end = time.monotonic() + seconds
        if self._spans is not None:
            self._spans.flush(seconds)
        if self._sender is not None:
            self._sender.close(max(0.0, end - time.monotonic()))
        self._losses.log()


def _resource(version: str) -> Resource:
    """Describes this server; the environment's description goes before ours."""
    ours = {
        "service.name": "convserve",
        "service.version": version,
        "service.instance.id": str(uuid.uuid4()),
    }
    return Resource.create(dict(ours)).merge(OTELResourceDetector().detect())
