"""Every metric of the server, declared once, by the side that writes it.

The nv_inference_* names and labels are those of NVIDIA Triton, so that its dashboards work here.
Prometheus' own counters would append _total to them.
"""

from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client.core import CounterMetricFamily, Metric

from serving.base.counting.counters import BatchCounters, BatchTimes, CallCounters, Newest
from serving.base.counting.sums import (
    C,
    Count,
    Duration,
    Highest,
    Histogram,
    Levels,
    Share,
    Sums,
    Tally,
)
from serving.base.memory import USES, MemoryBudget

# Bucket bounds in seconds, from 0.1 ms (a small model) to a minute (a deep queue). More buckets
# give finer quantiles and longer scrapes.
_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
# Bucket bounds in seconds of the event loop's lag: an idle one has under 2 ms, alerts begin at 50.
_LAG_SECONDS = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_VERSION = ("model", "version")


class _Shown(Sums[C]):
    """Sums by version, under names of NVIDIA Triton.

    shown: name, documentation and value of each family.
    """

    def __init__(
        self, name: str, make: Callable[[], C], *shown: tuple[str, str, Callable[[C], float]]
    ) -> None:
        super().__init__(name, "", _VERSION, make)
        self._shown = shown

    def collect(self) -> Iterable[Metric]:
        """The families."""
        for name, documentation, read in self._shown:
            family = CounterMetricFamily(f"nv_inference_{name}", documentation)
            for values, child in self.children():
                labels = dict(zip(_VERSION, values, strict=True))
                family.add_sample(family.name, labels, read(child))
            yield family


def _micros(duration: Duration) -> int:
    return duration.ns // 1000


def _value(count: Count) -> float:
    return count.value


def _shed() -> Tally:
    return Tally(
        "convserve_shed",
        "Calls refused on arrival (deadline, queue_full, bytes, memory) or expired in the "
        "queue (expired).",
        ("model", "reason"),
    )


def _access_failures() -> Tally:
    return Tally(
        "convserve_access_failures",
        "Changes of --api-keys, --policy and --require-signature that could not be used, and "
        "fetches of --jwt-jwks that failed; the last good content stays.",
        ("flag",),
    )


class FrontMetrics(Share):
    """What those count who face callers."""

    def __init__(self) -> None:
        self._count_calls()
        self._count_connections()
        self._count_engine_process()
        self._count_loop()
        self._show_certificate()

    def _count_calls(self) -> None:
        self.stage_seconds = Histogram(
            "convserve_stage_duration_seconds",
            "Time of one inference in one stage: decode, queue, infer, postprocess.",
            (*_VERSION, "stage"),
            _SECONDS,
        )
        self.request_seconds = Histogram(
            "convserve_request_duration_seconds",
            "Time of a call from arrival to answer.",
            _VERSION,
            _SECONDS,
        )
        self.success = _Shown(
            "success",
            Duration,
            ("request_success", "Successful requests.", lambda d: d.count),
            ("request_duration_us", "Microseconds from arrival to answer.", _micros),
        )
        self.fail = _Shown(
            "fail", Duration, ("request_failure", "Failed requests.", lambda d: d.count)
        )
        self.requests = Tally(
            "convserve_requests",
            "Calls by how they ended; the version is empty where the call found no model.",
            (*_VERSION, "method", "code"),
        )
        self.control_calls = Tally(
            "convserve_control_calls",
            "Calls that infer nothing (metadata, repository, settings, memory) by how they ended.",
            ("method", "code"),
        )
        self.caller_calls = Tally(
            "convserve_caller_calls",
            "Calls by caller and how they ended, where callers are told apart: of the first 100 "
            "names, then others; anonymous; empty where credentials proved nobody.",
            ("caller", "code"),
        )
        self.access_failures = _access_failures()
        self.shed = _shed()
        self.write_failures = Tally(
            "convserve_write_failures",
            "Lines of the log file (log) and trace files (trace) that could not be written.",
            ("kind",),
        )
        self.telemetry_lost = Tally(
            "convserve_telemetry_lost",
            "Spans, and exports of metrics, that --otel could not send.",
            ("signal",),
        )

    def _count_connections(self) -> None:
        self.connections = Levels(
            "convserve_http_connections",
            "Open connections of an HTTP port (http, metrics).",
            ("port",),
        )
        self.http_refused = Tally(
            "convserve_http_refused",
            "Callers that an HTTP port refused or cut before or after a call: connections "
            "(too many), idle (closed for a newer one), head, body, answer (too slow), malformed, "
            "host, origin, content_type, tls (a handshake that failed).",
            ("port", "reason"),
        )
        self.cut = Tally(
            "convserve_cut",
            "Callers of the gRPC port that were cut: their message did not come (receive), their "
            "answer was not read (send), memory was short (memory), their address had too many "
            "connections (connections), or their TLS handshake failed (tls; on the native wire).",
            ("reason",),
        )
        for reason in ("receive", "send", "memory", "connections", "tls"):
            self.cut.labels(reason)
        self.memory_held = Levels(
            "convserve_memory_held_bytes",
            "Memory that calls hold at the moment, by use (message, decode, batch, answer).",
            ("use",),
        )
        self.memory_limit = Levels(
            "convserve_memory_limit_bytes", "Memory that all calls together may hold."
        )

    def _count_engine_process(self) -> None:
        self.engine_ends = Tally(
            "convserve_engine_process_ends",
            "Engine processes that ended while they were needed: crash, hung, stuck.",
            ("reason",),
        )
        self.stale_answers = Tally(
            "convserve_stale_answers",
            "Answers of an engine process to no call that it had. Above 0 is a fault.",
            (),
        )

    def _count_loop(self) -> None:
        self.loop_lag = Histogram(
            "convserve_event_loop_lag_seconds",
            "How late beats of the event loop are, 100 a second, where its thread had a core: "
            "something held the loop or the GIL.",
            (),
            _LAG_SECONDS,
        )
        self.loop_starved = Tally(
            "convserve_event_loop_starved_seconds",
            "Seconds for which the event loop was ready to run and had no core.",
            (),
        )

    def _show_certificate(self) -> None:
        self.certificate_expiry = Levels(
            "convserve_tls_certificate_expiry_timestamp_seconds",
            "When the certificate in use expires, or one of its chain, in seconds since 1970.",
        )
        self.certificate_failed = Levels(
            "convserve_tls_certificate_failed",
            "1 while the files of TLS do not fit and the certificate before is in use, else 0.",
        )

    def counters(self, model: str, version: str) -> CallCounters:
        """The counters of a version, made on first use; they outlive a reload."""
        labels = (model, version)
        return CallCounters(self.success.labels(*labels), self.fail.labels(*labels))

    def watch_memory(self, budget: MemoryBudget) -> None:
        """Shows what calls hold of a budget."""
        self.memory_limit.labels().set(budget.limit)
        for use in USES:
            self.memory_held.labels(use).set_function(partial(budget.held, use))


class EngineMetrics(Share):
    """What those count who batch and load."""

    def __init__(self) -> None:
        self._count_batches()
        self._count_models()
        self._count_repositories()

    def _count_batches(self) -> None:
        self.batch_size = Histogram(
            "convserve_batch_size", "Rows in the batches that ran.", _VERSION, _BATCH_SIZES
        )
        self.inferences = _Shown(
            "inferences", Count, ("count", "Inferences, each row of a batch one.", _value)
        )
        self.executions = _Shown("executions", Count, ("exec_count", "Executed batches.", _value))
        self.queue = _Shown(
            "queue", Duration, ("queue_duration_us", "Microseconds in the queue.", _micros)
        )
        self.compute = _Shown(
            "compute",
            BatchTimes,
            (
                "compute_input_duration_us",
                "Microseconds of gathering rows.",
                lambda t: _micros(t.compute_input),
            ),
            (
                "compute_infer_duration_us",
                "Microseconds in the engine.",
                lambda t: _micros(t.compute_infer),
            ),
            (
                "compute_output_duration_us",
                "Microseconds of handing out.",
                lambda t: _micros(t.compute_output),
            ),
        )
        self.by_size = Sums("by_size", "", (*_VERSION, "rows"), BatchTimes)
        self.last = Sums("last", "", _VERSION, Newest)
        self.pending = Levels(
            "nv_inference_pending_request_count", "Requests in the queue.", _VERSION
        )
        self.queue_depth = Levels("convserve_queue_depth", "Rows that wait for a batch.", _VERSION)
        self.shed = _shed()
        self.cancelled = Tally(
            "convserve_cancelled", "Calls whose caller went away while they waited.", ("model",)
        )

    def _count_models(self) -> None:
        self.model_ready = Levels(
            "convserve_model_ready",
            "1 while a version serves, 0 while it loads, has failed or drains.",
            _VERSION,
            Highest,
        )
        self.model_accuracy = Levels(
            "convserve_model_accuracy_ratio",
            "Accuracy that the served variant was published with (top-1, mean IoU).",
            (*_VERSION, "variant", "engine"),
            Highest,
        )
        self.model_device_memory = Levels(
            "convserve_model_device_memory_bytes",
            "GPU memory that a version's engine says it holds; 0 where it does not tell.",
            _VERSION,
        )
        self.self_check_failures = Tally(
            "convserve_self_check_failures",
            "Variants that were refused at load: checksum, gate, or answers that differ here.",
            (*_VERSION, "variant"),
        )
        self.access_failures = _access_failures()
        self.signature_refusals = Tally(
            "convserve_signature_refusals",
            "Loads of a version that --require-signature refused.",
            _VERSION,
        )

    def _count_repositories(self) -> None:
        self.fetched_bytes = Tally(
            "convserve_repository_fetched_bytes",
            "Bytes that came from a repository behind a URL, those of failed fetches too.",
            ("repository",),
        )
        self.fetch_seconds = Tally(
            "convserve_repository_fetch_seconds",
            "Seconds in which a repository behind a URL was listed and fetched.",
            ("repository",),
        )
        self.fetch_failures = Tally(
            "convserve_repository_fetch_failures",
            "Listings of a repository behind a URL, and models in it, that could not be fetched; "
            "what was fetched before serves.",
            ("repository",),
        )
        self.listing_age = Levels(
            "convserve_repository_listing_age_seconds",
            "Time since a repository behind a URL was last listed; it is once, but for "
            "--model-control poll.",
            ("repository",),
            Highest,
        )

    def counters(self, model: str, version: str) -> BatchCounters:
        """The counters of a version, made on first use; they outlive a reload."""
        labels = (model, version)
        return BatchCounters(
            self.queue.labels(*labels),
            self.compute.labels(*labels),
            self.inferences.labels(*labels),
            self.executions.labels(*labels),
            self.last.labels(*labels),
            self.pending.labels(*labels),
            self.by_size,
            labels,
        )

    def forget(self, model: str, version: str) -> None:
        """Removes the levels of a version that is gone. Its counters stay, as counters must."""
        for levels in (self.queue_depth, self.model_ready, self.model_device_memory):
            levels.remove(model, version)
