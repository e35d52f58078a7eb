"""The way of spans to a collector: bounded, and beside the calls."""

import threading
from collections.abc import Sequence

from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_EXPORT_BATCH_SIZE,
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from serving.server.telemetry.environment import DAY_MS, number
from serving.server.telemetry.losses import ENDED, Losses, SdkWords

# Spans that may wait, unless the environment has another number, and the most that it may have; one
# takes 2 KB.
_QUEUE, _LARGEST_QUEUE = 2048, 100_000
# Spans of an export. To encode a span takes 12 us of the GIL: more at a time hold up the event loop
# longer, fewer make more requests.
_BATCH, _LARGEST_BATCH = 256, 512
# Milliseconds between two exports.
_DELAY = 5_000
# Seconds for exports that are told to end.
_LAST_SECONDS = 0.1


class Spans:
    """Sends spans in batches, on a thread of the SDK's. Spans beyond its queue are lost."""

    def __init__(self, exporter: SpanExporter, losses: Losses, words: SdkWords) -> None:
        """Raises StartError for variables of the environment that are no such numbers."""
        self._losses = losses
        self._limit = number(OTEL_BSP_MAX_QUEUE_SIZE, _QUEUE, _LARGEST_QUEUE)
        usual, most = min(_BATCH, self._limit), min(_LARGEST_BATCH, self._limit)
        batch = number(OTEL_BSP_MAX_EXPORT_BATCH_SIZE, usual, most)
        delay = number(OTEL_BSP_SCHEDULE_DELAY, _DELAY, DAY_MS, "milliseconds")
        self._exporter = _Counted(exporter, losses, words)
        self._processor = BatchSpanProcessor(self._exporter, self._limit, delay, batch)
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
        """Sends what waits, for so many seconds at most; then nothing is sent any more, and the
        rest is lost."""
        # Not by the processor's shutdown, which waits for half a minute.
        sending = threading.Thread(target=self._processor.force_flush, daemon=True)
        sending.start()
        sending.join(seconds)
        self._exporter.shutdown()
        sending.join(_LAST_SECONDS)
        if left := self._given - self._exporter.close():
            self._losses.count("spans", left, ENDED)


class _Counted(SpanExporter):
    """Counts the losses of an exporter, until it is closed.

    done: spans that were sent or lost.
    """

    def __init__(self, exporter: SpanExporter, losses: Losses, words: SdkWords) -> None:
        self._exporter, self._losses, self._words = exporter, losses, words
        self._ended = self._closed = False
        self.done = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Sends spans, on the thread of the SDK's."""
        if self._ended:
            return SpanExportResult.FAILURE
        self._words.listen()
        try:
            result = self._exporter.export(spans)
            reason = self._words.heard() or "the export failed"
        except Exception as error:
            result, reason = SpanExportResult.FAILURE, f"{type(error).__name__}: {error}"
        if not self._closed:
            self.done += len(spans)
            if result is not SpanExportResult.SUCCESS:
                self._losses.count("spans", len(spans), reason)
        return result

    def shutdown(self) -> None:
        """Begins no further export, and ends the wait between two tries of one."""
        self._ended = True
        self._exporter.shutdown()

    def close(self) -> int:
        """Stops to count. Returns `done`."""
        self._closed = True
        return self.done
