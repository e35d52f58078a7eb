"""The metrics of /metrics over OTLP: the same labels and numbers; names without _total."""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client.core import Metric as Family
from prometheus_client.samples import Sample

from serving.base.counting.totals import Totals
from serving.server.telemetry.environment import DAY_MS, number
from serving.server.telemetry.losses import ENDED, Losses, SdkWords

# Milliseconds between two exports, unless the environment has others: OpenTelemetry's default.
_INTERVAL = 60_000
_CUMULATIVE = AggregationTemporality.CUMULATIVE


class MetricsSender:
    """Sends all metrics now and then, each time on a thread of its own: a collector that hangs
    holds up that thread alone.

    totals: are sent.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        totals: Totals,
        resource: Resource,
        version: str,
        losses: Losses,
        words: SdkWords,
    ) -> None:
        """Raises StartError for an interval that is none."""
        interval = number(OTEL_METRIC_EXPORT_INTERVAL, _INTERVAL, DAY_MS, "milliseconds")
        self._seconds = interval / 1e3
        self._exporter, self._totals = exporter, totals
        self._resource, self._scope = resource, InstrumentationScope("convserve", version)
        self._losses, self._words = losses, words
        self._began = time.time_ns()
        self._thread = threading.Thread()

    async def run(self) -> None:
        """Sends them for ever."""
        while True:
            await asyncio.sleep(self._seconds)
            await self.send()

    async def send(self) -> None:
        """Sends them once, unless the export before is under way still."""
        if self._thread.is_alive():
            self._losses.count("metrics", 1, "the export before has not ended")
            return
        try:
            await self._totals.refresh()
            data = self._data()
            self._thread = threading.Thread(target=self._export, args=(data,), daemon=True)
            self._thread.start()
        except Exception as error:
            self._losses.count("metrics", 1, f"{type(error).__name__}: {error}")

    def close(self, seconds: float) -> None:
        """Waits for an export that is under way, for so many seconds at most."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        if self._thread.is_alive():
            self._losses.count("metrics", 1, ENDED)
        self._exporter.shutdown()

    def _export(self, data: MetricsData) -> None:
        self._words.listen()
        try:
            if self._exporter.export(data) is not MetricExportResult.SUCCESS:
                self._losses.count("metrics", 1, self._words.heard() or "the export failed")
        except Exception as error:
            self._losses.count("metrics", 1, f"{type(error).__name__}: {error}")

    def _data(self) -> MetricsData:
        now = time.time_ns()
        found = [
            Metric(family.name, family.documentation, "", points)
            for family in self._totals.registry.collect()
            if (points := _points(family, self._began, now)) is not None
        ]
        scope = ScopeMetrics(self._scope, found, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def _points(family: Family, began: int, now: int) -> Sum | Gauge | Histogram | None:
    """The samples of a family; None where it has none. began, now: nanoseconds since 1970."""
    samples = family.samples
    if not samples:
        return None
    if family.type == "histogram":
        return Histogram([*_histograms(samples, began, now)], _CUMULATIVE)
    points = [NumberDataPoint(each.labels, began, now, each.value) for each in samples]
    if family.type == "counter":
        return Sum(points, _CUMULATIVE, is_monotonic=True)
    return Gauge(points)


def _histograms(samples: Iterable[Sample], began: int, now: int) -> Iterator[HistogramDataPoint]:
    """Each child of a histogram, whose samples are its buckets in their order, its count and its
    sum."""
    buckets: list[Sample] = []
    for sample in samples:
        if sample.name.endswith("_bucket"):
            buckets.append(sample)
        elif sample.name.endswith("_sum"):
            yield _histogram(buckets, sample, began, now)
            buckets = []


def _histogram(
    buckets: Sequence[Sample], total: Sample, began: int, now: int
) -> HistogramDataPoint:
    sums = [int(bucket.value) for bucket in buckets]
    return HistogramDataPoint(
        attributes=total.labels,
        start_time_unix_nano=began,
        time_unix_nano=now,
        count=sums[-1],
        sum=total.value,
        bucket_counts=[after - before for before, after in itertools.pairwise([0, *sums])],
        explicit_bounds=[float(bucket.labels["le"]) for bucket in buckets[:-1]],
        # Nobody knows the smallest and the largest; OTLP may do without.
        min=None,  # type: ignore[arg-type]
        max=None,  # type: ignore[arg-type]
        exemplars=[*_exemplars(buckets)],
    )


def _exemplars(buckets: Iterable[Sample]) -> Iterator[Exemplar]:
    for bucket in buckets:
        if (found := bucket.exemplar) is not None and found.timestamp is not None:
            yield Exemplar(
                {},
                found.value,
                int(float(found.timestamp) * 1e9),
                int(found.labels["span_id"], 16),
                int(found.labels["trace_id"], 16),
            )
