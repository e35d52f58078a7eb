"""Draws a dashboard's graphs from what a Prometheus holds, much as Grafana would show them."""

import re
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl

from tests.helm.prometheus import Prometheus

mpl.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = 3
_UNITS = {"s": "s", "reqps": "calls/s", "ops": "rows/s", "bytes": "bytes", "µs": "µs"}


def draw(
    prometheus: Prometheus,
    dashboard: dict[str, Any],
    rate_interval: str,
    seconds: float,
    file: Path,
) -> int:
    """Writes a PNG of every graph of the dashboard over the last `seconds`; the number of lines."""
    panels = [panel for panel in dashboard["panels"] if panel["type"] == "timeseries"]
    rows = -(-len(panels) // COLUMNS)
    figure, axes = plt.subplots(rows, COLUMNS, figsize=(15, 2.8 * rows), layout="constrained")
    end = time.time()
    lines = 0
    for panel, axis in zip(panels, axes.flat, strict=False):
        for target in panel["targets"]:
            query = target["expr"].replace("$__rate_interval", rate_interval)
            query = query.replace("$model", ".*")
            for series in prometheus.query_range(query, end - seconds, end, 1):
                times = [float(when) - end for when, _ in series["values"]]
                values = [float(value) for _, value in series["values"]]
                axis.plot(times, values, label=_legend(target["legendFormat"], series["metric"]))
                lines += 1
        axis.set_title(panel["title"], fontsize=10, loc="left")
        axis.set_ylabel(_UNITS.get(panel["fieldConfig"]["defaults"]["unit"], ""), fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=7, loc="upper left")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(file, dpi=80)
    plt.close(figure)
    return lines


def _legend(template: str, labels: dict[str, str]) -> str:
    """A label that a series lacks is empty, as in Grafana."""
    return re.sub(r"{{(\w+)}}", lambda name: labels.get(name[1], ""), template).strip()
