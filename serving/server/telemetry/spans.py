"""The way of spans to a collector: bounded, and beside the calls."""

import os
import threading
from collections.abc import Sequence

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from serving.server.config import StartError
from serving.server.telemetry.losses import Losses, SdkWords

# Spans that may wait, and spans of an export, unless the environment has others. To encode a span
# takes 12 us of the GIL: more at a time hold up the event loop longer, fewer make more requests.
_QUEUE, _BATCH, _LARGEST_BATCH = 2048, 256, 512


class Spans:
    """Sends spans in batches, on a thread of the SDK's. Spans beyond its queue are lost."""

    def __init__(self, exporter: SpanExporter, losses: Losses, words: SdkWords) -> None:
        """Raises StartError for variables of the environment that are no such numbers."""
        self._losses = losses
        self._limit = _number(OTEL_BSP_MAX_QUEUE_SIZE, _QUEUE)
        batch = min(_number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, _BATCH), _LARGEST_BATCH, self._limit)
        self._exporter = _Counted(exporter, losses, words)
        self._processor = BatchSpanProcessor(self._exporter, self._limit, None, batch)
        self._given = 0

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Queues spans, or counts them as lost; on the event loop."""
        if self._given - self._exporter.done + len(spans) > self._limit:
            reason = f"more than {self._limit} spans wait ({OTEL_BSP_MAX_QUEUE_SIZE})"
            self._losses.count("spans", len(spans), reason)
            return
        self._given += len(spans)
        for span in spans:
            self._processor.on_end(span)

    def flush(self, seconds: float) -> None:
        """Sends what waits, for so many seconds at most; then nothing is sent any more."""
        # Not by the processor's shutdown, which waits for half a minute.
        sending = threading.Thread(target=self._processor.force_flush, daemon=True)
        sending.start()
        sending.join(seconds)
        self._exporter.shutdown()


class _Counted(SpanExporter):
    """Counts what an exporter has done with. done: spans that were sent or lost."""

    def __init__(self, exporter: SpanExporter, losses: Losses, words: SdkWords) -> None:
        self._exporter, self._losses, self._words = exporter, losses, words
        self.done = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends spans, on the thread of the SDK's."""
        self._words.listen()
        try:
            result = self._exporter.export(spans)
            if result is not SpanExportResult.SUCCESS:
                self._losses.count("spans", len(spans), self._words.heard())
        except Exception as error:
            self._losses.count("spans", len(spans), f"{type(error).__name__}: {error}")
            result = SpanExportResult.FAILURE
        self.done += len(spans)
        return result

    def shutdown(self) -> None:
        """Ends the wait between two tries, too."""
        self._exporter.shutdown()


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal() or not int(text[:9]) > 0:
        raise StartError(f"{variable}: expected a number above 0, got {text[:80]!r}")
    return int(text[:9])
