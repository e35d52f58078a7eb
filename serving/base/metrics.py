"""Every metric of the server, declared once.

The nv_inference_* names and labels are those of NVIDIA Triton, so that its dashboards work here.
A collector of our own yields them, since Prometheus' client would append _total to the counters.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.base.collectors import Histogram, Tally
from serving.base.machine.nvml import GpuUsage
from serving.base.memory import USES, MemoryBudget

# Bucket bounds in seconds, from 0.1 ms (a small model) to a minute (a deep queue). More buckets
# give finer quantiles and longer scrapes.
_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass
class Duration:
    """A number of events, and the nanoseconds that they took together."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        """Adds `count` events that took `seconds` together."""
        self.count += count
        self.ns += int(seconds * 1e9)


@dataclass
class BatchCounters:
    """Times of the batches of one size."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass
class ModelCounters:
    """The counters of one version of a model; both ModelStatistics and nv_inference_* read them.

    Written from the event loop only. A request may hold several inferences (rows of a batch).

    success, fail: requests by how they ended, with their time from arrival to answer.
    queue: requests and the time that they waited.
    compute_input, compute_infer, compute_output: requests and the time of the three steps of their
        batches: gather, infer, scatter.
    inference_count: rows that ran.
    execution_count: batches that ran.
    last_inference_ms: end of the last batch, in milliseconds since 1970.
    pending: requests in the queue.
    batches: times by batch size.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    inference_count: int = 0
    execution_count: int = 0
    last_inference_ms: int = 0
    pending: int = 0
    batches: dict[int, BatchCounters] = field(default_factory=dict)

    def batch_done(
        self, rows: int, waits: Sequence[float], gather: float, infer: float, scatter: float
    ) -> None:
        """Counts a batch that ran.

        waits: seconds in the queue, one for each answered call.
        gather, infer, scatter: seconds of the three steps; each of those calls is charged all.
        """
        self.execution_count += 1
        self.inference_count += rows
        self.last_inference_ms = int(time.time() * 1e3)
        batch = self.batches.setdefault(rows, BatchCounters())
        calls = len(waits)
        self.queue.add(sum(waits), calls)
        for total, of_size, seconds in (
            (self.compute_input, batch.compute_input, gather),
            (self.compute_infer, batch.compute_infer, infer),
            (self.compute_output, batch.compute_output, scatter),
        ):
            of_size.add(seconds)
            total.add(seconds * calls, calls)


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.models: dict[tuple[str, str], ModelCounters] = {}
        self._declare_calls()
        self._declare_connections()
        self._declare_queue()
        self._declare_models()
        self.registry.register(_TritonCollector(self.models))

    def _declare_calls(self) -> None:
        self.stage_seconds = Histogram(
            "convserve_stage_duration_seconds",
            "Time of one inference in one stage: decode, queue, infer, postprocess.",
            ("model", "version", "stage"),
            bounds=_SECONDS,
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "convserve_request_duration_seconds",
            "Time of a call from arrival to answer.",
            ("model", "version"),
            bounds=_SECONDS,
            registry=self.registry,
        )
        self.batch_size = Histogram(
            "convserve_batch_size",
            "Rows in the batches that ran.",
            ("model", "version"),
            bounds=_BATCH_SIZES,
            registry=self.registry,
        )
        self.requests = Tally(
            "convserve_requests",
            "Calls by how they ended; the version is empty where the call found no model.",
            ("model", "version", "method", "code"),
            registry=self.registry,
        )
        self.control_calls = Tally(
            "convserve_control_calls",
            "Calls that infer nothing (metadata, repository, settings, memory) by how they ended.",
            ("method", "code"),
            registry=self.registry,
        )

    def _declare_connections(self) -> None:
        self.connections = Gauge(
            "convserve_http_connections",
            "Open connections of an HTTP port (http, metrics).",
            ("port",),
            registry=self.registry,
        )
        self.http_refused = Tally(
            "convserve_http_refused",
            "What an HTTP port refused or cut before a call began or after it ended: connections "
            "(too many), idle (closed for a newer one), head, body, answer (too slow), malformed, "
            "host, origin, content_type.",
            ("port", "reason"),
            registry=self.registry,
        )

    def _declare_queue(self) -> None:
        self.shed = Counter(
            "convserve_shed",
            "Calls refused on arrival (deadline, queue_full, bytes, memory) or expired in the "
            "queue (expired).",
            ("model", "reason"),
            registry=self.registry,
        )
        self.cut = Counter(
            "convserve_cut",
            "Callers of the gRPC port that were cut: their message did not come (receive), their "
            "answer was not read (send), memory was short (memory), or their address had too many "
            "connections (connections).",
            ("reason",),
            registry=self.registry,
        )
        for reason in ("receive", "send", "memory", "connections"):
            self.cut.labels(reason)
        self.cancelled = Counter(
            "convserve_cancelled",
            "Calls whose caller went away while they waited.",
            ("model",),
            registry=self.registry,
        )
        self.queue_depth = Gauge(
            "convserve_queue_depth",
            "Rows that wait for a batch.",
            ("model", "version"),
            registry=self.registry,
        )
        self.memory_held = Gauge(
            "convserve_memory_held_bytes",
            "Memory that calls hold at the moment, by use (message, decode, batch, answer).",
            ("use",),
            registry=self.registry,
        )
        self.memory_limit = Gauge(
            "convserve_memory_limit_bytes",
            "Memory that all calls together may hold.",
            registry=self.registry,
        )

    def _declare_models(self) -> None:
        self.model_ready = Gauge(
            "convserve_model_ready",
            "1 while a version serves, 0 while it loads, has failed or drains.",
            ("model", "version"),
            registry=self.registry,
        )
        self.model_accuracy = Gauge(
            "convserve_model_accuracy_ratio",
            "Accuracy that the served variant was published with (top-1, mean IoU).",
            ("model", "version", "variant", "engine"),
            registry=self.registry,
        )
        self.model_device_memory = Gauge(
            "convserve_model_device_memory_bytes",
            "GPU memory that a version's engine says it holds; 0 where it does not tell.",
            ("model", "version"),
            registry=self.registry,
        )
        self.write_failures = Counter(
            "convserve_write_failures",
            "Lines of the log file (log) and trace files (trace) that could not be written.",
            ("kind",),
            registry=self.registry,
        )
        self.self_check_failures = Counter(
            "convserve_self_check_failures",
            "Variants that were refused at load: checksum, gate, or answers that differ here.",
            ("model", "version", "variant"),
            registry=self.registry,
        )

    def watch_memory(self, budget: MemoryBudget) -> None:
        """Shows what calls hold of a budget."""
        self.memory_limit.set(budget.limit)
        for use in USES:
            self.memory_held.labels(use).set_function(partial(budget.held, use))

    def watch_gpus(self, read: Callable[[], Sequence[GpuUsage]]) -> None:
        """Shows gauges for each GPU that `read` returns."""
        self.registry.register(_GpuCollector(read))

    def counters(self, model: str, version: str) -> ModelCounters:
        """The counters of a version, made on first use; they outlive a reload."""
        return self.models.setdefault((model, version), ModelCounters())

    def forget(self, model: str, version: str) -> None:
        """Removes the gauges of a version that is gone. Its counters stay, as counters must."""
        for gauge in (self.queue_depth, self.model_ready, self.model_device_memory):
            gauge.remove(model, version)


class _TritonCollector(Collector):
    """Yields the counters under the sample names of NVIDIA Triton's metrics."""

    def __init__(self, models: dict[tuple[str, str], ModelCounters]) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        counters = (
            ("request_success", "Successful requests.", lambda c: c.success.count),
            ("request_failure", "Failed requests.", lambda c: c.fail.count),
            ("count", "Inferences, each row of a batch one.", lambda c: c.inference_count),
            ("exec_count", "Executed batches.", lambda c: c.execution_count),
            ("request_duration_us", "Requests, end to end.", lambda c: c.success.ns // 1000),
            ("queue_duration_us", "Waiting in the queue.", lambda c: c.queue.ns // 1000),
            ("compute_input_duration_us", "Gathering.", lambda c: c.compute_input.ns // 1000),
            ("compute_infer_duration_us", "The engine.", lambda c: c.compute_infer.ns // 1000),
            ("compute_output_duration_us", "Handing out.", lambda c: c.compute_output.ns // 1000),
        )
        for name, documentation, read in counters:
            family = CounterMetricFamily(f"nv_inference_{name}", documentation)
            self._add(family, f"nv_inference_{name}", read)
            yield family
        pending = GaugeMetricFamily("nv_inference_pending_request_count", "Requests in the queue.")
        self._add(pending, "nv_inference_pending_request_count", lambda c: c.pending)
        yield pending

    def _add(self, family: Metric, sample: str, read: Callable[[ModelCounters], int]) -> None:
        for (model, version), counters in list(self._models.items()):
            family.add_sample(sample, {"model": model, "version": version}, read(counters))


class _GpuCollector(Collector):
    """Yields the gauges of the GPUs under the names of NVIDIA Triton's metrics."""

    def __init__(self, read: Callable[[], Sequence[GpuUsage]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        usages = self._read()
        gauges: tuple[tuple[str, str, Callable[[GpuUsage], float | None]], ...] = (
            ("nv_gpu_utilization", "Share of time that kernels ran.", lambda u: u.utilization),
            ("nv_gpu_memory_total_bytes", "Memory.", lambda u: u.memory_total_bytes),
            ("nv_gpu_memory_used_bytes", "Memory in use.", lambda u: u.memory_used_bytes),
            ("nv_gpu_power_usage", "Power drawn, in watts.", lambda u: u.power_watts),
        )
        for name, documentation, value_of in gauges:
            family = GaugeMetricFamily(name, documentation, labels=["gpu_uuid"])
            for usage in usages:
                value = value_of(usage)
                if value is not None:
                    family.add_metric([usage.uuid], value)
            if family.samples:
                yield family
