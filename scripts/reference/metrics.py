"""The metrics of a server: name, type, labels, meaning."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from scripts.reference.text import Undocumented, code, join, sentence
from serving.base.counting.sums import Share, Sums, Tally
from serving.base.counting.totals import Totals
from serving.base.machine.nvml import GpuUsage
from serving.base.metrics import EngineMetrics, FrontMetrics

_INTRODUCTION = """\
# Metrics

`http://HOST:8002/metrics`, in the text format of Prometheus or as OpenMetrics. Names that begin
with `nv_` are those of NVIDIA Triton. How to watch them: [Metrics and the
log](../operations/metrics.md).
"""


class Described(NamedTuple):
    """One metric, as Prometheus shows it.

    kind: counter, gauge or histogram.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def page() -> str:
    """The page."""
    blocks = [_INTRODUCTION]
    for title, found in (
        ("Calls and connections", described(FrontMetrics())),
        ("Batches, models and repositories", described(EngineMetrics())),
        ("GPUs", _gpus()),
    ):
        blocks += [f"## {title}", *(_section(one) for one in found)]
    return join(blocks)


def _section(one: Described) -> str:
    labels = f"by {', '.join(map(code, one.labels))}" if one.labels else "no labels"
    facts = f"{one.kind} · {labels}\n{{ .facts }}"
    return join([f"### {code(one.name)} {{ #{one.name} }}", sentence(one.meaning), facts])


def described(share: Share) -> list[Described]:
    """The metrics that one side writes. Raises Undocumented for one without a documentation."""
    return [one for sums in share.families().values() for one in _shown(sums)]


def _shown(sums: Sums[Any]) -> Iterator[Described]:
    for family in sums.collect():
        if not family.documentation:
            raise Undocumented(f"metric {family.name}: give it a documentation")
        suffix = "_total" if isinstance(sums, Tally) else ""
        yield Described(
            family.name + suffix, str(family.type), tuple(sums.names), family.documentation
        )


def _gpus() -> list[Described]:
    """The gauges of a GPU, by a reading of one that is made up."""
    totals = Totals()
    totals.watch_gpus(lambda: [GpuUsage("GPU-0", 0.0, 0, 0, 0.0)])
    return [
        Described(family.name, str(family.type), ("gpu_uuid",), family.documentation)
        for family in totals.registry.collect()
        if family.name.startswith("nv_gpu")
    ]
