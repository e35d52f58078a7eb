"""A server without its process, and the spans of its calls."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving.base.metrics import FrontMetrics
from serving.server.telemetry.losses import Losses, SdkWords
from serving.server.telemetry.spans import Spans
from serving.server.telemetry.tracing import Tracing
from tests.support.in_process import InProcess, in_process

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "theirs=1"}
Work = Callable[[InProcess], Awaitable[Any]]


def traced(
    tmp_path: Path, work: Work, sampler: str = "parentbased_always_off", **settings: Any
) -> list[ReadableSpan]:
    """The spans of some calls, in the order of their begin. By default a call is sampled where its
    caller's span is."""
    exporter = InMemorySpanExporter()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_TRACES_SAMPLER", sampler)
        spans = Spans(exporter, Losses(FrontMetrics().telemetry_lost), SdkWords())
        tracing = Tracing(Resource({}), "0", spans)

    async def run() -> None:
        async with in_process(tmp_path, tracing=tracing, **settings) as server:
            await work(server)
        tracing.batches.close()

    asyncio.run(run())
    spans._processor.force_flush()
    found = exporter.get_finished_spans()
    spans.flush(1)
    return sorted(found, key=lambda span: span.start_time)
