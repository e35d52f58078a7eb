"""Traces and metrics of real servers, as a collector has them."""

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import TracerProvider

from serving.client import AsyncVisionClient, VisionClient
from serving.server import wires
from serving.server.config import StartError
from tests.support.collector import Collector, rotel_before, values_of
from tests.support.process import ServerProcess

TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("tests")
STAGES = ["receive", "decode", "queue", "infer", "postprocess"]
RED = np.full((8, 8, 3), (200, 10, 10), np.uint8)


@contextmanager
def sending(
    repository: Path, cache: Path, collector: str, *flags: str, **more: str
) -> Iterator[ServerProcess]:
    """A server that sends to a collector, soon, the traces of callers who are in one."""
    env = os.environ | {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "OTEL_METRIC_EXPORT_INTERVAL": "100",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0",
        "OTEL_SERVICE_NAME": "eyes",
    }
    running = ServerProcess(repository, "--otel", *flags, cache=cache, env=env | more)
    try:
        yield running.wait_ready()
    finally:
        running.kill()


def test_calls_that_share_a_batch_are_linked_in_a_collector_behind_a_collector(
    colours: Path, cache: Path, tmp_path: Path
) -> None:
    """Over an engine process, whose records tell the times, and rotel, which others made."""

    async def calls(url: str) -> str:
        async with AsyncVisionClient(url) as client:
            with TRACER.start_as_current_span("test") as span:
                await asyncio.gather(*(client.classify("colours", RED) for _ in range(16)))
        return f"{span.get_span_context().trace_id:032x}"

    def answered() -> float:
        found = collector.metrics.get("convserve_requests")
        return sum(point.as_double for point in found.sum.data_points) if found else 0

    def all_calls(trace_id: str) -> list[Span]:
        found = [span for span in collector.trace(trace_id) if span.name == "Classify"]
        return found if len(found) == 16 and all(map(collector.batch_with, found)) else []

    with (
        Collector() as collector,
        rotel_before(collector, tmp_path) as rotel,
        sending(colours, cache, rotel, "--engine-process") as server,
    ):
        trace_id = asyncio.run(calls(server.url))
        found = collector.until(lambda: all_calls(trace_id))
        batches = [span for _, span in collector.spans if span.name == "batch"]
        rows = [values_of(batch.attributes)["convserve.batch.rows"] for batch in batches]
        assert sum(rows) == 16
        assert rows == [len(batch.links) for batch in batches]
        spans = collector.trace(trace_id)
        for call in found:
            stages = [span for span in spans if span.parent_span_id == call.span_id]
            assert [span.name for span in stages] == STAGES
            times = [span.start_time_unix_nano for span in stages]
            assert times == sorted(times)
            assert call.end_time_unix_nano + 1000 >= stages[-1].end_time_unix_nano
        collector.until(lambda: answered() == 16)
        assert server.metric('convserve_telemetry_lost_total{signal="spans"}') == 0
        described, _ = collector.spans[0]
        assert described["service.name"] == "eyes"


def test_images_of_a_stream_belong_to_the_span_of_whoever_sent_them(
    colours: Path, cache: Path, wire: str
) -> None:
    with Collector() as collector, sending(colours, cache, collector.url) as server:
        with VisionClient(server.url) as client:
            traces = []
            for _ in range(2):
                with TRACER.start_as_current_span("test") as span:
                    traces.append(f"{span.get_span_context().trace_id:032x}")
                    assert list(client.classify_many("colours", [RED]))
            client.classify("colours", RED)
        # What is left goes to the collector at the end.
        assert server.terminate() == 0
        names = {name: [span.name for span in collector.trace(name)] for name in traces}
    stages = ["ClassifyStream", *STAGES[1:]]
    assert {name: sorted(found) for name, found in names.items()} == {
        name: sorted(stages) for name in traces
    }
    assert {span.name for _, span in collector.spans} == {*stages, "batch"}


def test_collector_that_is_gone_or_hangs_delays_no_call_and_no_end(
    colours: Path, cache: Path
) -> None:
    with Collector() as collector:
        collector.held.clear()
        always = {"OTEL_TRACES_SAMPLER": "always_on", "OTEL_BSP_MAX_QUEUE_SIZE": "64"}
        with sending(colours, cache, collector.url, "--drain-seconds", "5", **always) as server:
            with VisionClient(server.url) as client:
                for _ in range(50):
                    client.classify("colours", RED)
            server.wait_for_log("telemetry lost", signal="spans")
            assert server.metric('convserve_telemetry_lost_total{signal="spans"}') > 0
            assert server.terminate() == 0
            # One line at once, and one at the end.
            lost = [line for line in server.log if line["message"] == "telemetry lost"]
            assert [line["signal"] for line in lost].count("spans") == 2
            assert sum(line["lost"] for line in lost if line["signal"] == "spans") >= 50 * 6
            assert not any(line["logger"].startswith("opentelemetry") for line in server.log)


def test_server_without_the_flag_imports_nothing_of_it(colours: Path, cache: Path) -> None:
    code = f"""
        import asyncio, sys
        from pathlib import Path
        from serving.server.config import ServerConfig
        from serving.server.server import Server
        settings = ServerConfig(
            model_repository=Path({str(colours)!r}), cache_dir=Path({str(cache)!r}),
            grpc_port=0, http_port=0, metrics_port=0, admin="off", engine_process=False,
        )
        async def main():
            server = Server(settings)
            await server.start()
            await server.stop()
        asyncio.run(main())
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_flag_without_its_packages_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = ("serving.server.telemetry", "opentelemetry.exporter")
    for name in [name for name in sys.modules if name.startswith(rooms)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(StartError, match=r"--otel: .* is not installed \(pip install 'convserve\["):
        wires._telemetry(None, None, "0")
