"""The sums of all writers together, as /metrics and ModelStatistics show them."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.base.counting.sums import Share
from serving.base.machine.nvml import GpuUsage
from serving.base.metrics import EngineMetrics, FrontMetrics


class Totals(Collector):
    """Adds up shares, whenever somebody looks.

    registry: shows them to Prometheus.
    """

    def __init__(self, *shares: Share) -> None:
        self._shares = shares
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def now(self) -> tuple[FrontMetrics, EngineMetrics]:
        """The sums of those who face callers, and of those who batch."""
        front, engine = FrontMetrics(), EngineMetrics()
        for share in self._shares:
            taken = share.snapshot()
            for total in (front, engine):
                total.add(taken.counts)
                total.add(taken.levels)
                total.show_exemplars(share)
        return front, engine

    async def refresh(self) -> None:
        """Fetches the sums of other processes. To be awaited before somebody looks."""
        for share in self._shares:
            await share.refresh()

    def collect(self) -> Iterable[Metric]:
        """The families of all sums. Both sides may count under one name."""
        front, engine = self.now()
        for sums in (front.families() | engine.families()).values():
            yield from sums.collect()

    def watch_gpus(self, read: Callable[[], Sequence[GpuUsage]]) -> None:
        """Shows gauges for each GPU that `read` returns."""
        self.registry.register(_GpuCollector(read))


class _GpuCollector(Collector):
    """Yields the gauges of the GPUs under the names of NVIDIA Triton's metrics."""

    def __init__(self, read: Callable[[], Sequence[GpuUsage]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        usages = self._read()
        gauges: tuple[tuple[str, str, Callable[[GpuUsage], float | None]], ...] = (
            ("nv_gpu_utilization", "Share of time that kernels ran.", lambda u: u.utilization),
            (
                "nv_gpu_memory_total_bytes",
                "Memory of the GPU, in bytes.",
                lambda u: u.memory_total_bytes,
            ),
            ("nv_gpu_memory_used_bytes", "Memory in use, in bytes.", lambda u: u.memory_used_bytes),
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
