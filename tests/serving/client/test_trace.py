"""The span that a caller is in, as headers."""

import subprocess
import sys

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from serving.client.trace import trace_headers


def test_current_span_is_named_with_its_state() -> None:
    state = TraceState([("theirs", "1")])
    span = SpanContext(0xAF, 0xB7, False, TraceFlags(1), state)
    with trace.use_span(NonRecordingSpan(span)):
        assert trace_headers() == {
            "traceparent": f"00-{0xAF:032x}-{0xB7:016x}-01",
            "tracestate": "theirs=1",
        }


def test_what_goes_with_the_trace_goes_too() -> None:
    token = context.attach(baggage.set_baggage("customer", "a b"))
    with TracerProvider(shutdown_on_exit=False).get_tracer("t").start_as_current_span("s"):
        assert trace_headers()["baggage"] == "customer=a+b"
    context.detach(token)


def test_nothing_is_said_without_a_span() -> None:
    assert trace_headers() == {}


def test_client_imports_nothing_of_what_its_caller_does_not_use() -> None:
    code = (
        "import sys; from serving.client.trace import trace_headers; assert trace_headers() == {};"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
