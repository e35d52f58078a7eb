"""The trace that a caller is in, for the server: by OpenTelemetry, where he uses it."""

import sys


def trace_headers() -> dict[str, str]:
    """The headers that carry the current span to the server, as the propagators of OpenTelemetry
    make them; by default those of W3C Trace Context. Empty where no span is current."""
    if "opentelemetry.trace" not in sys.modules:  # whoever begins a span has imported it
        return {}
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().is_valid:
        return {}
    found: dict[str, str] = {}
    propagate.inject(found)
    return {name.lower(): value for name, value in found.items()}
