"""Calls as spans, over both wires and REST, on an engine that a test decides."""

import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.exposition import generate_latest as plain_latest
from prometheus_client.openmetrics import parser
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from protos.gen import grpc_service_pb2 as oip
from protos.gen import vision_pb2 as pb
from serving.base.metrics import FrontMetrics
from serving.base.trace import CallTrace, Ride
from serving.server.access.caller import Caller
from serving.server.http.health import _Open
from serving.server.telemetry import tracing as module
from serving.server.telemetry.losses import Losses, SdkWords
from serving.server.telemetry.spans import Spans
from serving.server.telemetry.tracing import Tracing
from tests.support.in_process import SIDE, InProcess
from tests.support.traced import SAMPLED, SPAN, TRACE, traced

VISION = "/convserve.vision.v1.VisionService/"
OIP = "/inference.GRPCInferenceService/"
RED = pb.Image(raw=pb.RawImage(height=SIDE, width=SIDE, rgb=bytes([200, 0, 0]) * SIDE * SIDE))


def by_name(spans: list[ReadableSpan]) -> dict[str, ReadableSpan]:
    names = [span.name for span in spans]
    assert len(set(names)) == len(names), names
    return dict(zip(names, spans, strict=True))


def infer_request(rows: int = 1) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="plain", id="theirs")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 3])
    request.raw_input_contents.append(np.ones((rows, 3), np.float32).tobytes())
    return request


async def unary(
    server: InProcess, method: str, request: Any, headers: dict[str, str] | None = None
) -> bytes:
    call: Any = server.channel.unary_unary(method)
    sent = tuple((SAMPLED if headers is None else headers).items())
    answer: bytes = await call(request.SerializeToString(), metadata=sent, timeout=10)
    return answer


def assert_stages(spans: list[ReadableSpan], name: str, *stages: str) -> None:
    """The call is a child of its caller's span, each stage is one of the call, none begins before
    it or ends after it, and the batch links the call as its stage links the batch."""
    found = by_name(spans)
    assert sorted(found) == sorted([name, "batch", *stages])
    call, batch = found[name], found["batch"]
    assert f"{call.context.trace_id:032x}" == TRACE
    assert call.parent is not None
    assert f"{call.parent.span_id:016x}" == SPAN
    assert call.context.trace_state.get("theirs") == "1"
    before = call.start_time
    for stage in stages:
        span = found[stage]
        assert span.context.trace_id == call.context.trace_id
        assert span.parent.span_id == call.context.span_id
        # The clocks of time and of stages are read one after the other.
        assert call.start_time <= span.start_time + 1000
        assert span.end_time <= call.end_time + 1000
        assert before <= span.start_time + 1000, stage
        before = span.start_time
    assert batch.context.trace_id != call.context.trace_id
    assert batch.parent is None
    assert [link.context.span_id for link in batch.links] == [call.context.span_id]
    assert found["infer"].links[0].context.span_id == batch.context.span_id


def test_image_passes_every_stage(tmp_path: Path, wire: str) -> None:
    request = pb.ClassifyRequest(model="colours", images=[RED], options=pb.CallOptions(id="mine"))
    spans = traced(tmp_path, lambda server: unary(server, VISION + "Classify", request))
    stages = ("receive", "decode", "queue", "infer", "postprocess")
    assert_stages(spans, "Classify", *stages)
    call = by_name(spans)["Classify"]
    assert call.attributes == {
        "convserve.request.bytes": request.ByteSize(),
        "convserve.request.id": "mine",
        "convserve.model.name": "colours",
        "convserve.model.version": "1",
        "convserve.model.variant": "fp32",
    }


def test_mask_is_finished_in_its_trace(tmp_path: Path) -> None:
    request = pb.SegmentRequest(model="regions", images=[RED])
    spans = traced(tmp_path, lambda server: unary(server, VISION + "Segment", request))
    assert_stages(spans, "Segment", "receive", "decode", "queue", "infer", "postprocess")


def test_tensors_pass_the_stages_that_they_have(tmp_path: Path, wire: str) -> None:
    spans = traced(tmp_path, lambda server: unary(server, OIP + "ModelInfer", infer_request()))
    assert_stages(spans, "ModelInfer", "receive", "queue", "infer")


def test_rest_call_is_traced_from_its_head_on(tmp_path: Path) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [1, 2, 3]}]}

    async def work(server: InProcess) -> None:
        path = "/v2/models/plain/infer"
        status, _ = await server.rest("POST", path, json=body, headers=SAMPLED)
        assert status == 200

    assert_stages(traced(tmp_path, work), "RestInfer", "receive", "queue", "infer")


def test_messages_of_a_stream_belong_to_the_span_of_the_stream(tmp_path: Path, wire: str) -> None:
    async def work(server: InProcess) -> None:
        stream: Any = server.channel.stream_stream(OIP + "ModelStreamInfer")
        sent = iter([infer_request().SerializeToString()])
        assert [_ async for _ in stream(sent, metadata=tuple(SAMPLED.items()), timeout=10)]

    assert_stages(traced(tmp_path, work), "ModelStreamInfer", "queue", "infer")


def test_message_of_a_stream_may_belong_to_a_span_of_its_own(tmp_path: Path, wire: str) -> None:
    request = pb.ClassifyRequest(model="colours", images=[RED])
    request.options.traceparent = SAMPLED["traceparent"]
    request.options.tracestate = SAMPLED["tracestate"]

    async def work(server: InProcess) -> None:
        await server.stream(VISION + "ClassifyStream", [request])

    stages = ("decode", "queue", "infer", "postprocess")
    assert_stages(traced(tmp_path, work), "ClassifyStream", *stages)


def test_batch_links_all_sampled_calls_in_it(tmp_path: Path) -> None:
    async def work(server: InProcess) -> None:
        both = [f"00-{TRACE[:-1]}{n}-{SPAN}-01" for n in range(2)]
        calls = [
            unary(server, OIP + "ModelInfer", infer_request(), {"traceparent": parent})
            for parent in [*both, f"00-{TRACE}-{SPAN}-00"]
        ]
        await asyncio.gather(*calls)

    spans = traced(tmp_path, work)
    calls = {span.context.span_id for span in spans if span.name == "ModelInfer"}
    batches = [span for span in spans if span.name == "batch"]
    linked = [link.context.span_id for batch in batches for link in batch.links]
    assert len(calls) == 2
    assert sorted(linked) == sorted(calls)
    links = {span.links[0].context.span_id for span in spans if span.name == "infer"}
    assert links == {batch.context.span_id for batch in batches}


@pytest.mark.parametrize(
    "traceparent",
    [
        f"00-{TRACE}-{SPAN}-00",
        "",
        "00",
        f"00-{TRACE}-{SPAN}-0x",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"01-{TRACE}-{SPAN}-01-" + "x" * 600,
        "x" * 4000,
    ],
)
def test_call_whose_caller_is_in_no_sampled_trace_leaves_no_span(
    tmp_path: Path, traceparent: str
) -> None:
    headers = {"traceparent": traceparent, "tracestate": "a=1"}

    async def work(server: InProcess) -> None:
        await unary(server, OIP + "ModelInfer", infer_request(), headers)

    assert traced(tmp_path, work) == []


@pytest.mark.parametrize("state", ["=,;" * 100, "a=" + "b" * 254 + ",c=" + "d" * 256])
def test_state_that_is_none_or_long_loses_no_trace(tmp_path: Path, state: str) -> None:
    headers = SAMPLED | {"tracestate": state}
    spans = traced(
        tmp_path, lambda server: unary(server, OIP + "ModelInfer", infer_request(), headers)
    )
    call = by_name(spans)["ModelInfer"]
    assert f"{call.context.trace_id:032x}" == TRACE
    assert len(call.context.trace_state) == 0


def test_call_without_a_parent_is_sampled_by_the_environment(tmp_path: Path) -> None:
    spans = traced(
        tmp_path,
        lambda server: unary(server, OIP + "ModelInfer", infer_request(), {}),
        sampler="parentbased_always_on",
    )
    assert by_name(spans)["ModelInfer"].parent is None


def test_call_whose_batch_fails_says_how_and_shows_its_batch(tmp_path: Path) -> None:
    async def work(server: InProcess) -> None:
        server.engines["plain"].failure = RuntimeError("broken")
        with pytest.raises(grpc.aio.AioRpcError):
            await unary(server, OIP + "ModelInfer", infer_request())
        text = generate_latest(_Open(server.metrics.registry)).decode()
        assert "# {" not in text  # its times are in no bucket

    spans = traced(tmp_path, work)
    assert_stages(spans, "ModelInfer", "receive", "queue", "infer")
    found = by_name(spans)
    assert found["queue"].end_time == found["infer"].start_time
    assert found["ModelInfer"].attributes["error.type"] == "INTERNAL"
    assert not found["ModelInfer"].status.is_ok


def test_batch_lasts_until_the_last_of_its_calls_knows_its_end() -> None:
    exporter = InMemorySpanExporter()
    spans = Spans(exporter, Losses(FrontMetrics().telemetry_lost), SdkWords())
    tracing = Tracing(Resource({}), "0", spans)

    async def run() -> None:
        now = time.monotonic()
        answered = Ride("m", "1", now - 9, now - 8, now - 7, 2.0, 3)
        left = answered._replace(began=0.0, infer=0.0)
        for ride in (answered, left, answered):
            trace = tracing.begin("Test", Caller(""), now - 10)
            assert trace is not None
            trace.rode(ride)
            trace.end(time.monotonic(), "CANCELLED", None, "", 0)
        tracing.batches.close()

    asyncio.run(run())
    spans.flush(10)
    found = [(span.name, span.end_time - span.start_time) for span in exporter.get_finished_spans()]
    infer = [length for name, length in found if name == "infer"]
    assert infer == [pytest.approx(seconds * 1e9, rel=0.01) for seconds in (2, 8, 2)]
    [batch] = [length for name, length in found if name == "batch"]
    assert batch == pytest.approx(infer[1], abs=1e6)


def test_mistake_of_a_caller_is_no_fault(tmp_path: Path) -> None:
    async def work(server: InProcess) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await unary(server, OIP + "ModelInfer", oip.ModelInferRequest(model_name="none"))

    call = by_name(traced(tmp_path, work))["ModelInfer"]
    assert call.attributes["error.type"] == "NOT_FOUND"
    assert call.status.is_unset


def test_refused_caller_is_traced_without_what_he_proved_himself_by(tmp_path: Path) -> None:
    headers = SAMPLED | {"x-api-key": "secret-key", "authorization": "Bearer secret-token"}
    keys = tmp_path / "keys"
    keys.write_text("# nobody\n")
    keys.chmod(0o600)

    async def work(server: InProcess) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await unary(server, OIP + "ModelInfer", infer_request(), headers)

    call = by_name(traced(tmp_path, work, access={"api_keys": keys}))["ModelInfer"]
    assert call.attributes["error.type"] == "UNAUTHENTICATED"
    assert "secret" not in call.to_json()


def test_id_and_stages_of_a_call_are_bounded(tmp_path: Path) -> None:
    request = pb.ClassifyRequest(
        model="colours", images=[RED] * 256, options=pb.CallOptions(id="i" * 5000)
    )
    spans = traced(tmp_path, lambda server: unary(server, VISION + "Classify", request))
    [call] = [span for span in spans if span.name == "Classify"]
    assert len(call.attributes["convserve.request.id"]) == 200
    parts = [span for span in spans if span.parent and span.parent.span_id == call.context.span_id]
    assert len(parts) == module._MOST_STAGES
    # Receiving, and four stages for each of 32 batches.
    assert call.attributes["convserve.stages_left_out"] == 1 + 4 * 32 - module._MOST_STAGES


def test_call_that_cannot_be_traced_is_not_under_way_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    async def work(server: InProcess) -> None:
        assert server.front.tracing is not None
        monkeypatch.setattr(server.front.tracing, "begin", broken)
        with pytest.raises(grpc.aio.AioRpcError, match="internal error"):
            await unary(server, OIP + "ModelInfer", infer_request())
        assert server.front.running == 0

    assert traced(tmp_path, work) == []


def test_latencies_of_a_traced_call_are_exemplars(tmp_path: Path) -> None:
    request = pb.ClassifyRequest(model="colours", images=[RED])
    texts: list[str] = []

    async def work(server: InProcess) -> None:
        await unary(server, VISION + "Classify", request, {})
        await unary(server, VISION + "Classify", request)
        texts.append(generate_latest(_Open(server.metrics.registry)).decode())
        texts.append(plain_latest(server.metrics.registry).decode())

    spans = traced(tmp_path, work)
    call = by_name(spans)["Classify"]
    open_text, plain = texts
    families = {family.name: family for family in parser.text_string_to_metric_families(open_text)}
    shown = {
        sample.labels.get("stage", ""): sample.exemplar
        for name in ("convserve_stage_duration_seconds", "convserve_request_duration_seconds")
        for sample in families[name].samples
        if sample.exemplar is not None
    }
    assert sorted(shown) == ["", "decode", "infer", "postprocess", "queue"]
    for exemplar in shown.values():
        span_id = f"{call.context.span_id:016x}"
        assert exemplar.labels == {"trace_id": TRACE, "span_id": span_id}
    assert "# {" not in plain
    assert TRACE not in plain
    names = {s.name for f in text_string_to_metric_families(plain) for s in f.samples}
    assert names == {s.name for f in families.values() for s in f.samples}


def test_no_header_is_read_where_nobody_traces(tmp_path: Path) -> None:
    spans = traced(tmp_path, lambda server: server.rest("GET", "/v2"), sampler="always_off")
    assert spans == []


def begun(traceparent: list[str], tracestate: list[str]) -> CallTrace | None:
    """The trace of a call with these headers."""
    spans = Spans(InMemorySpanExporter(), Losses(FrontMetrics().telemetry_lost), SdkWords())
    headers = {"traceparent": traceparent, "tracestate": tracestate}
    caller = Caller("", header=lambda name: headers[name])
    trace = Tracing(Resource({}), "0", spans).begin("Test", caller, 1.0)
    spans.flush(1)
    return trace


def test_caller_who_names_two_parents_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    assert begun([SAMPLED["traceparent"]], []) is not None
    assert begun([SAMPLED["traceparent"]] * 2, []) is None


@pytest.mark.parametrize("state", ["", "a=" + "b" * 10_000, "\x7f=\x00", "," * 10_000])
def test_any_header_is_a_parent_or_none(state: str) -> None:
    given = SAMPLED["traceparent"]
    for value in [*(given[:n] for n in range(len(given))), "\x00", "é" * 55, "-" * 55]:
        trace = begun([value], [state])
        assert trace is not None
        assert trace.exemplar["trace_id"] != TRACE
