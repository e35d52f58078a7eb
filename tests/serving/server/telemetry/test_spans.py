"""A collector that is slow, dead or angry costs spans, and nothing else."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from serving.base.metrics import FrontMetrics
from serving.server.access.caller import Caller
from serving.server.config import StartError
from serving.server.telemetry.losses import Losses, SdkWords
from serving.server.telemetry.spans import Spans
from serving.server.telemetry.tracing import Tracing
from tests.support.collector import Collector


class Sent:
    """Spans on their way, and what was lost of them."""

    def __init__(
        self,
        exporter: SpanExporter,
        losses: Losses | None = None,
        words: SdkWords | None = None,
    ) -> None:
        self.losses = losses or Losses(FrontMetrics().telemetry_lost)
        self.spans = Spans(exporter, self.losses, words or SdkWords())
        self._tracing = Tracing(Resource({}), "0", self.spans)

    def call(self) -> None:
        """One call without stages."""
        trace = self._tracing.begin("Test", Caller(""), 1.0)
        assert trace is not None
        trace.end(2.0, "OK", None, "", 0)

    @property
    def lost(self) -> float:
        """Spans."""
        return self.losses._tally.labels("spans").value

    def flush(self) -> None:
        """Sends them now, as at the end of a server."""
        self.spans.flush(10)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)


def until(condition: Callable[[], bool]) -> None:
    """Returns when a condition holds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)  # no event tells of a count


@contextmanager
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """The log lines of the block; pytest listens to those of the SDK, which go no further, too."""
    caplog.clear()
    found: list[logging.LogRecord] = []
    with caplog.at_level(logging.INFO):
        yield found
    found += [line for line in caplog.records if line.name.startswith("serving")]


def test_spans_go_to_the_collector_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        sent = Sent(OTLPSpanExporter())
        sent.call()
        collector.until(lambda: collector.spans)
        sent.flush()
    assert sent.lost == 0


@pytest.mark.parametrize("status", [401, 503])
def test_spans_that_a_collector_refuses_are_counted_and_logged_once(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with Collector() as collector, lines(caplog) as said:
        collector.status = status
        sent = Sent(OTLPSpanExporter(f"{collector.url}/v1/traces"))
        for n in range(3):
            sent.call()
            collector.until(lambda n=n: len(collector.requests) > n)
        sent.flush()
    assert sent.lost == 3
    [line] = said
    assert line.message == "telemetry lost"
    assert vars(line)["signal"] == "spans"
    assert vars(line)["lost"] >= 1
    assert "Failed to export" in vars(line)["reason"]


def test_collector_that_is_not_there_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with Collector() as gone:
        pass
    with lines(caplog) as said:
        sent = Sent(OTLPSpanExporter(f"{gone.url}/v1/traces", timeout=30))
        sent.call()
        # Ends the wait for the next try.
        sent.spans.flush(0.1)
        until(lambda: sent.lost == 1)
    [line] = said
    assert "Connection refused" in vars(line)["reason"]


def test_spans_beyond_the_queue_are_lost_while_a_collector_hangs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "4")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "30")
    with Collector() as collector, lines(caplog) as said:
        collector.held.clear()
        sent = Sent(OTLPSpanExporter(f"{collector.url}/v1/traces"))
        for _ in range(100):
            sent.call()
        assert sent.lost == 96
        collector.held.set()
        collector.until(lambda: len(collector.spans) == 4)
        sent.flush()
    assert sent.lost == 96
    assert [line.message for line in said] == ["telemetry lost"]


def test_flush_does_not_wait_for_a_collector_that_hangs() -> None:
    begun, end = threading.Event(), threading.Event()

    class Hanging(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            begun.set()
            end.wait(30)
            return SpanExportResult.SUCCESS

    sent = Sent(Hanging())
    sent.call()
    assert begun.wait(30)
    sent.spans.flush(0.01)
    assert not end.is_set()
    end.set()


def test_spans_that_the_end_leaves_are_counted_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with Collector() as collector, lines(caplog) as said:
        collector.held.clear()
        sent = Sent(OTLPSpanExporter(f"{collector.url}/v1/traces", timeout=30))
        sent.call()
        collector.until(lambda: collector.requests)
        for _ in range(3):
            sent.call()
        sent.spans.flush(0.01)
        sent.losses.log()
    assert sent.lost == 4
    [line] = said
    assert vars(line)["lost"] == 4
    assert vars(line)["reason"] == "the server ended before they were sent"


def test_losses_within_a_minute_are_logged_at_the_end_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    losses = Losses(FrontMetrics().telemetry_lost)
    with lines(caplog) as said:
        losses.count("spans", 1, "first")
        losses.count("spans", 2, "http://c/v1/traces?key=secret (why?)")
        losses.count("spans", 3, "third")
        losses.log()
        losses.log()
    told = [(vars(line)["lost"], vars(line)["reason"]) for line in said]
    assert told == [(1, "first"), (5, "http://c/v1/traces?... (why?)")]


def test_exporter_that_raises_costs_its_spans() -> None:
    class Broken(SpanExporter):
        def export(self, spans: list[ReadableSpan]) -> SpanExportResult:
            raise RuntimeError("broken")

    sent = Sent(Broken())
    sent.call()
    sent.flush()
    assert sent.lost == 1


@pytest.mark.parametrize("variable", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"])
@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "100001", "\u0665"])
def test_size_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(StartError, match=rf"{variable}: expected 1 to \d+, got '{value}'"):
        Sent(OTLPSpanExporter())


def test_export_is_no_larger_than_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    Sent(OTLPSpanExporter()).flush()
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "9")
    with pytest.raises(StartError, match="EXPORT_BATCH_SIZE: expected 1 to 8, got '9'"):
        Sent(OTLPSpanExporter())


@pytest.mark.parametrize("value", ["0", "soon", "86400001"])
def test_delay_that_is_none_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", value)
    with pytest.raises(StartError, match="OTEL_BSP_SCHEDULE_DELAY: expected milliseconds of 1 to"):
        Sent(OTLPSpanExporter())
