"""Traces of calls, as W3C Trace Context and OpenTelemetry have them.

A call that is sampled notes when its stages ran, and becomes spans when it ends: its own, one for
each stage, and one for each batch in which it rode. That one is a trace by itself and links all
calls of the batch that are sampled, as their stages link it.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
    get_current_span,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from serving.base.trace import Ride
from serving.models.facts import ModelFacts
from serving.server.access.caller import Caller, GetHeader
from serving.server.telemetry.spans import Spans

# Stages of a call that are kept: one of 256 images has up to four for each of them. More show more
# of large calls, and let them take more of the queue of spans.
_MOST_STAGES = 32
# Batches whose calls are collected at a time, calls that one links, and seconds until it is sent:
# its calls are answered within milliseconds of each other.
_MOST_BATCHES, _MOST_LINKS, _COLLECT_SECONDS = 1024, 128, 0.5
# Characters of a call's id; a caller may give it megabytes.
_SHOWN_ID = 200
# Characters of a caller's tracestate, the least that W3C Trace Context asks for. A longer one is
# left out: every span of the call carries it.
_MOST_STATE = 512
# Codes that are the server's fault, by the conventions for spans of gRPC servers.
_FAULTS = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_ERROR = Status(StatusCode.ERROR)
_UNSET = Status(StatusCode.UNSET)

_Value = str | int | float


class _Stage(NamedTuple):
    """A stage that ran; monotonic seconds. batch: that ran it; None for others."""

    name: str
    began: float
    ended: float
    attributes: dict[str, _Value]
    batch: SpanContext | None = None


class Tracing:
    """Decides which calls are traced, by the trace that their callers are in and by the sampler of
    the environment.

    resource: describes this server.
    """

    def __init__(self, resource: Resource, version: str, spans: Spans) -> None:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._sampler, self._ids = provider.sampler, provider.id_generator
        self._resource, self._spans = resource, spans
        self._scope = InstrumentationScope("convserve", version)
        self._propagator = TraceContextTextMapPropagator()
        self.batches = Batches(self)

    def begin(self, method: str, caller: Caller, began: float) -> "SampledTrace | None":
        """The trace of a call, whose message had come at `began`, monotonic seconds; None where it
        is not sampled."""
        given: Context = self._propagator.extract(caller.header, Context(), _HEADERS)
        parent = get_current_span(given).get_span_context()
        trace = parent.trace_id if parent.is_valid else self._ids.generate_trace_id()
        found = self._sampler.should_sample(given, trace, method, SpanKind.SERVER)
        if found.decision is not Decision.RECORD_AND_SAMPLE:
            return None
        context = self.context(trace, found.trace_state)
        traced = SampledTrace(
            self, method, context, parent if parent.is_valid else None, caller.came or began
        )
        if caller.came:
            traced.ran("receive", caller.came, began)
        return traced

    def context(self, trace: int | None = None, state: TraceState | None = None) -> SpanContext:
        """The context of a new span, by default of a new trace."""
        trace = trace or self._ids.generate_trace_id()
        return SpanContext(trace, self._ids.generate_span_id(), False, _SAMPLED, state)

    def span(
        self,
        stage: _Stage,
        offset: int,
        context: SpanContext,
        parent: SpanContext | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        links: Sequence[Link] = (),
        status: Status = _UNSET,
    ) -> ReadableSpan:
        """A span that has ended. Made in one piece: to begin and to end it would take five times as
        long, on the event loop.

        offset: of the clock, nanoseconds since 1970 at monotonic zero.
        """
        began = offset + int(stage.began * 1e9)
        return ReadableSpan(
            stage.name,
            context,
            parent,
            self._resource,
            stage.attributes,
            links=links,
            kind=kind,
            status=status,
            start_time=began,
            end_time=max(began, offset + int(stage.ended * 1e9)),
            instrumentation_scope=self._scope,
        )

    def send(self, spans: Sequence[ReadableSpan]) -> None:
        """Queues spans for the collector."""
        self._spans.send(spans)


class SampledTrace:
    """The trace of one call that is sampled; implements `CallTrace`."""

    __slots__ = (
        "_began", "_context", "_left_out", "_method", "_parent", "_stages", "_tracing", "exemplar",
    )  # fmt: skip

    def __init__(
        self,
        tracing: Tracing,
        method: str,
        context: SpanContext,
        parent: SpanContext | None,
        began: float,
    ) -> None:
        self._tracing, self._method, self._began = tracing, method, began
        self._context, self._parent = context, parent
        self.exemplar = {
            "trace_id": format_trace_id(context.trace_id),
            "span_id": format_span_id(context.span_id),
        }
        self._stages: list[_Stage] = []
        self._left_out = 0

    def ran(self, stage: str, began: float, ended: float, images: int = 0) -> None:
        """`CallTrace.ran`."""
        self._note(_Stage(stage, began, ended, {"convserve.images": images} if images else {}))

    def rode(self, ride: Ride) -> None:
        """`CallTrace.rode`."""
        now = time.monotonic()
        self.ran("queue", ride.queued, ride.started or now)
        if not ride.started:
            return
        began, ended = (ride.began, ride.began + ride.infer) if ride.began else (ride.started, now)
        batch = self._tracing.batches.joined(ride, ended, self._context)
        rows: dict[str, _Value] = {"convserve.batch.rows": ride.rows}
        self._note(_Stage("infer", began, ended, rows, batch))

    def _note(self, stage: _Stage) -> None:
        if len(self._stages) < _MOST_STAGES:
            self._stages.append(stage)
        else:
            self._left_out += 1

    def end(
        self, now: float, code: str, model: ModelFacts | None, request_id: str, received: int
    ) -> None:
        """Sends the spans of the call, which ended now with a code."""
        found: dict[str, _Value] = {"convserve.request.bytes": received}
        if model is not None:
            found["convserve.model.name"] = model.name
            found["convserve.model.version"] = model.version
            found["convserve.model.variant"] = model.variant
        if request_id:
            found["convserve.request.id"] = request_id[:_SHOWN_ID]
        if self._left_out:
            found["convserve.stages_left_out"] = self._left_out
        if code != "OK":
            found["error.type"] = code
        tracing, context = self._tracing, self._context
        own, offset = _Stage(self._method, self._began, now, found), _clock_offset()
        status = _ERROR if code in _FAULTS else _UNSET
        spans = [tracing.span(own, offset, context, self._parent, SpanKind.SERVER, status=status)]
        for stage in self._stages:
            part = tracing.context(context.trace_id, context.trace_state)
            links = () if stage.batch is None else (Link(stage.batch),)
            spans.append(tracing.span(stage, offset, part, context, links=links))
        tracing.send(spans)


@dataclass(slots=True)
class _Batch:
    """A batch whose calls are answered.

    ended: as far as its calls know, monotonic seconds.
    links: the calls that are sampled.
    """

    ride: Ride
    context: SpanContext
    ended: float = 0.0
    links: list[Link] = field(default_factory=list)


class Batches:
    """The batches whose calls are being answered: an engine process tells of them call by call."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._open: dict[tuple[str, str, float], _Batch] = {}

    def joined(self, ride: Ride, ended: float, call: SpanContext) -> SpanContext:
        """The span of the batch in which a call rode until `ended`, monotonic seconds."""
        key = ride.model, ride.version, ride.started
        batch = self._open.get(key)
        if batch is None:
            if len(self._open) >= _MOST_BATCHES:
                self._close(next(iter(self._open)))
            batch = self._open[key] = _Batch(ride, self._tracing.context())
            asyncio.get_running_loop().call_later(_COLLECT_SECONDS, self._close, key)
        batch.ended = max(batch.ended, ended)
        if len(batch.links) < _MOST_LINKS:
            batch.links.append(Link(call))
        return batch.context

    def close(self) -> None:
        """Sends those that are left."""
        for key in [*self._open]:
            self._close(key)

    def _close(self, key: tuple[str, str, float]) -> None:
        batch = self._open.pop(key, None)
        if batch is None:
            return
        ride = batch.ride
        found: dict[str, _Value] = {
            "convserve.model.name": ride.model,
            "convserve.model.version": ride.version,
            "convserve.batch.rows": ride.rows,
        }
        stage = _Stage("batch", ride.started, batch.ended, found)
        offset = _clock_offset()
        self._tracing.send([self._tracing.span(stage, offset, batch.context, links=batch.links)])


def _clock_offset() -> int:
    return time.time_ns() - time.monotonic_ns()


class _Headers(Getter[GetHeader]):
    """Reads the headers of a call. One that a caller sent twice, where it may stand once, is none,
    as W3C Trace Context has it; so is a long tracestate."""

    def get(self, carrier: GetHeader, key: str) -> list[str] | None:
        """The values of a header."""
        values = [*carrier(key)]
        if not values or (key == "traceparent" and len(values) > 1):
            return None
        return values if sum(map(len, values)) <= _MOST_STATE else None

    def keys(self, carrier: GetHeader) -> list[str]:
        """Nobody asks for them."""
        return []


_HEADERS = _Headers()
