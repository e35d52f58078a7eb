"""The environment decides what is sent, and where."""

import asyncio
import logging

import pytest

from serving.base.counting.totals import Totals
from serving.base.metrics import EngineMetrics, FrontMetrics
from serving.server.config import StartError
from serving.server.telemetry.setup import Telemetry
from tests.support.collector import Collector, values_of


def made() -> tuple[Telemetry, FrontMetrics]:
    metrics = FrontMetrics()
    return Telemetry(metrics, Totals(metrics, EngineMetrics()), "1.2.3"), metrics


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")


def test_metrics_go_to_the_collector_with_the_numbers_of_the_metrics_page(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(collector: Collector) -> None:
        telemetry, metrics = made()
        metrics.requests.count("m", "1", "ModelInfer", "OK")
        metrics.memory_limit.labels().set(7.5)
        seconds = metrics.request_seconds
        for value in (0.0003, 0.0003, 0.02, 100.0):
            seconds.labels("m", "1").observe(value)
        seconds.mark(("m", "1"), 0.02, {"trace_id": "0a" * 16, "span_id": "0b" * 8})
        telemetry.start()
        await asyncio.to_thread(
            collector.until, lambda: "convserve_request_duration_seconds" in collector.metrics
        )
        await telemetry.stop()
        telemetry.flush(5)

    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        asyncio.run(run(collector))
        found = collector.metrics
    [requests] = found["convserve_requests"].sum.data_points
    assert requests.as_double == 1
    assert found["convserve_requests"].sum.is_monotonic
    expected = {"model": "m", "version": "1", "method": "ModelInfer", "code": "OK"}
    assert values_of(requests.attributes) == expected
    assert 0 < requests.start_time_unix_nano < requests.time_unix_nano
    assert found["convserve_memory_limit_bytes"].gauge.data_points[0].as_double == 7.5
    [times] = found["convserve_request_duration_seconds"].histogram.data_points
    assert times.count == 4
    assert times.sum == pytest.approx(100.0206)
    counts = dict(zip([*times.explicit_bounds, "more"], times.bucket_counts, strict=True))
    assert {bound: n for bound, n in counts.items() if n} == {0.0005: 2, 0.025: 1, "more": 1}
    [exemplar] = times.exemplars
    assert exemplar.trace_id.hex() == "0a" * 16
    assert exemplar.as_double == 0.02


def test_metrics_that_a_collector_does_not_take_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(collector: Collector) -> float:
        telemetry, metrics = made()
        telemetry.start()
        await asyncio.to_thread(collector.until, lambda: collector.requests)
        await telemetry.stop()
        telemetry.flush(5)
        return metrics.telemetry_lost.labels("metrics").value

    with Collector() as collector:
        collector.status = 400
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        assert asyncio.run(run(collector)) >= 1


def test_server_describes_itself_and_the_environment_goes_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "eyes")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    telemetry, _ = made()
    assert telemetry.tracing is not None
    found = telemetry.tracing._resource.attributes
    assert found["service.name"] == "eyes"
    assert found["service.version"] == "1.2.3"
    assert found["deployment.environment.name"] == "test"
    assert found["service.instance.id"]
    telemetry.flush(1)


def test_service_has_a_name_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    telemetry, _ = made()
    assert telemetry.tracing is not None
    assert telemetry.tracing._resource.attributes["service.name"] == "convserve"
    telemetry.flush(1)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "expected milliseconds of 1 to 86400000"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "often", "expected milliseconds of 1 to 86400000"),
    ],
)
def test_wish_that_cannot_be_met_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartError, match=f"{variable}: {said}.*'{value}'"):
        made()


@pytest.mark.parametrize("protocol", ["", "http/protobuf"])
def test_protocol_that_is_spoken_may_be_named(
    monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    telemetry, _ = made()
    assert telemetry.tracing is not None
    telemetry.flush(1)


def test_each_signal_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    telemetry, _ = made()
    assert telemetry.tracing is None
    assert telemetry._sender is not None
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "none")
    telemetry, _ = made()
    assert telemetry.tracing is not None
    assert telemetry._sender is None
    telemetry.flush(1)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    telemetry, _ = made()
    assert telemetry.tracing is None
    assert telemetry._sender is None


def test_settings_that_the_sdk_does_not_take_are_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "nobody")
    with caplog.at_level(logging.WARNING):
        telemetry, _ = made()
    telemetry.flush(1)
    [line] = [line for line in caplog.records if line.name.startswith("serving")]
    assert "resource detector 'nobody'" in vars(line)["reason"]
    monkeypatch.setenv("OTEL_SPAN_LINK_COUNT_LIMIT", "few")
    with pytest.raises(StartError, match=r"OTEL_SPAN_LINK_COUNT_LIMIT must be .* got few"):
        made()
