"""Counters, CPU and memory of the server, read before and after the measured part."""

import asyncio
import http.client
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from loadtest.errors import LoadTestError
from loadtest.measurement.server_process import local_server, usage
from loadtest.wire import grpc_models
from loadtest.wire.rest_client import is_rest
from serving.client.tls import ClientTls, tls_for

# Seconds for an answer with metrics.
_TIMEOUT = 5.0
# Bytes of such an answer. A server of a thousand models has some 5 MB.
_MOST_BYTES = 16 << 20
# Seconds between two looks from which CPU is told: /proc counts it in steps of 10 ms, so that with
# less the error is above a tenth of a core.
_LEAST_SECONDS = 0.1
# Our name by the name of the sample in Triton, which convserve uses too.
_COUNTERS = {
    "nv_inference_request_success": "requests",
    "nv_inference_count": "inferences",
    "nv_inference_exec_count": "executions",
    "nv_inference_queue_duration_us": "queue",
    "nv_inference_compute_input_duration_us": "compute_input",
    "nv_inference_compute_infer_duration_us": "compute_infer",
    "nv_inference_compute_output_duration_us": "compute_output",
}
_STAGE_SUM = "convserve_stage_duration_seconds_sum"
_STAGE_COUNT = "convserve_stage_duration_seconds_count"
_TIMES = ("queue", "compute_input", "compute_infer", "compute_output")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The headers may hold a key, which is for the server of the URL alone."""

    def redirect_request(self, *_: Any) -> None:
        """No request: the redirect is an error."""


@dataclass(frozen=True)
class Observed:
    """Counters at one moment.

    time: of a monotonic clock, in seconds.
    statistics, metrics: counts and seconds; empty where the server does not offer them.
    cpu: CPU seconds of the server so far.
    resident: bytes; 0 where the server is not on this machine.
    """

    time: float
    statistics: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    cpu: float = 0.0
    resident: int = 0


class Observer:
    """Reads the counters of one server. Raises LoadTestError where `metrics_url` cannot be read."""

    def __init__(
        self,
        url: str,
        models: Sequence[str],
        metrics_url: str | None,
        tls: ClientTls | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._url = url
        self._tls = tls
        self._headers = dict(headers or {})
        self._models = models
        self._metrics_url = metrics_url
        self._process = local_server(url)
        if metrics_url is not None:
            self._scrape(metrics_url)

    def look(self) -> Observed:
        """Reads the counters."""
        statistics = (
            {}
            if is_rest(self._url)
            else asyncio.run(
                grpc_models.statistics(self._url, self._models, self._tls, self._headers)
            )
        )
        try:
            metrics = self._scrape(self._metrics_url) if self._metrics_url else {}
        except LoadTestError:
            # A busy server may not answer in time, which must not end the run.
            metrics = {}
        cpu, resident = usage(self._process) if self._process is not None else (0.0, 0)
        return Observed(time.monotonic(), statistics, metrics, cpu, resident)

    def _scrape(self, url: str) -> dict[str, float]:
        try:
            tls = tls_for(url, self._tls)
            context = tls.context() if tls else None
            https = urllib.request.HTTPSHandler(context=context)
            opener = urllib.request.build_opener(_NoRedirects, https)
            request = urllib.request.Request(url, headers=self._headers)
            with opener.open(request, timeout=_TIMEOUT) as response:
                text = response.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise ValueError(f"an answer of more than {_MOST_BYTES} bytes")
            families = list(text_string_to_metric_families(text.decode()))
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise LoadTestError(f"--metrics-url {url}: {error}") from error
        names = {name.partition(":")[0] for name in self._models}
        totals: dict[str, float] = {}
        for family in families:
            for sample in family.samples:
                if sample.labels.get("model") in names:
                    _count(totals, sample.name, sample.labels, sample.value)
        return totals


def _count(totals: dict[str, float], name: str, labels: dict[str, str], value: float) -> None:
    # The parser appends `_total` to counters, whose names in Triton lack it.
    name = name.removesuffix("_total")
    if name in _COUNTERS:
        key = _COUNTERS[name]
        value = value / 1e6 if name.endswith("_us") else value
    elif name == _STAGE_SUM:
        key = f"stage_sum:{labels['stage']}"
    elif name == _STAGE_COUNT:
        key = f"stage_count:{labels['stage']}"
    else:
        return
    totals[key] = totals.get(key, 0.0) + value


def difference(before: Observed, after: Observed) -> dict[str, Any]:
    """Figures of the time in between: batches, mean times (ms), CPU (cores), memory (bytes)."""
    found: dict[str, Any] = {}
    for source in ("statistics", "metrics"):
        counted = _counted(getattr(before, source), getattr(after, source))
        if counted:
            found[source] = counted
    if after.resident:
        elapsed = after.time - before.time
        # A helper process that ended in between takes its CPU seconds with it.
        if elapsed >= _LEAST_SECONDS and after.cpu >= before.cpu:
            found["cpu"] = (after.cpu - before.cpu) / elapsed
        found["resident_bytes"] = after.resident
    return found


def _counted(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    change = {key: value - before.get(key, 0.0) for key, value in after.items()}
    # A server that was started anew in between counts from 0 again.
    if change.get("executions", 0) <= 0 or min(change.values()) < 0:
        return {}
    requests = max(change.get("requests", 0.0), 1.0)
    stages = {
        key.partition(":")[2]: 1e3 * change[key] / change[key.replace("sum", "count", 1)]
        for key in change
        if key.startswith("stage_sum:") and change.get(key.replace("sum", "count", 1), 0) > 0
    }
    return {
        "requests": int(change.get("requests", 0)),
        "inferences": int(change["inferences"]),
        "executions": int(change["executions"]),
        "mean_batch_size": change["inferences"] / change["executions"],
        "mean_ms": stages or {key: 1e3 * change.get(key, 0.0) / requests for key in _TIMES},
    }
