"""The report of a run as one HTML file without references to others."""

import html
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from loadtest.report.summary import over_time
from loadtest.report.svg_charts import COLOURS, Series, chart
from loadtest.report.text import conclusions, render
from loadtest.results import OK, Phase, Run

# Percentiles of the percentile plot, evenly spaced on its scale.
_TAIL = 100 * (1 - np.logspace(0, -4, 81))
_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#888}
body{font:15px/1.5 system-ui,sans-serif;max-width:1320px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .5rem}
.soft{color:var(--soft)}.bad{color:#c0392b;font-weight:600}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
th,td{white-space:nowrap;padding:.3rem .8rem;text-align:right;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}
.plots{margin-top:1.2rem;display:grid;grid-template-columns:repeat(auto-fit,minmax(min(520px,100%),1fr));gap:1.2rem}
figure{margin:0}figcaption{font-weight:600;margin-bottom:.2rem}
svg{width:100%;height:auto}svg text{font-size:12px;fill:currentColor}
.shaded{fill:#8882}
.grid{stroke:var(--line);stroke-width:1}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;font-size:.85rem;padding-left:3rem}
.legend i{display:inline-block;width:1.1rem;height:3px;margin-right:.4rem;vertical-align:middle}
pre{overflow-x:auto;background:#8881;padding:.8rem;border-radius:6px}
"""


def render_page(run: Run, document: dict[str, Any], failures: Sequence[str]) -> str:
    """HTML of a run, of its document by `summarise`, and of the checks that failed."""
    phases = [p for p in run.phases if len(p.measured)]
    facts = [", ".join(dict.fromkeys(p.url for p in run.phases))]
    if run.phases:
        started = datetime.fromtimestamp(min(p.started for p in run.phases), UTC)
        facts.append(f"{started:%Y-%m-%d %H:%M:%S} UTC")
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        '<meta name=viewport content="width=device-width">',
        f"<title>Load test of {html.escape(', '.join(run.models))}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>Load test of {html.escape(', '.join(run.models))}</h1>",
        f"<p class=soft>{html.escape(' · '.join(facts))}</p>",
    ]
    parts += [f"<p class=bad>{html.escape(failure)}</p>" for failure in failures]
    parts += [f"<pre>{html.escape(text)}</pre>" for text in conclusions(document)]
    parts += [_table(document["phases"]), '<div class="plots">']
    if len(phases) > 1:
        parts.append(_curve(document["phases"]))
    parts.append(_percentiles(phases))
    parts.append("</div>")
    for phase in phases:
        parts.append(f"<h2>{html.escape(phase.label)}</h2>")
        parts.append(f'<div class="plots">{_over_time(phase)}</div>')
    parts.append(f"<h2>All figures</h2><pre>{html.escape(render(document))}</pre>")
    return "\n".join(parts) + "</html>\n"


def _table(phases: Sequence[dict[str, Any]]) -> str:
    names = ("p50", "p90", "p95", "p99", "p99.9")
    head = "".join(f"<th>{n}, ms</th>" for n in names)
    rows = []
    for phase in phases:
        cells = []
        for name in names:
            found = phase["latency_ms"].get(name)
            if found is None:
                cells.append("<td>-</td>")
                continue
            spread = f"95 %: {found['low']:.2f} to {found['high']:.2f}"
            cells.append(
                f'<td title="{spread}">{found["value"]:.2f}<br><span class=soft>'
                f"{found['low']:.2f} to {found['high']:.2f}</span></td>"
            )
        errors = sum(phase["errors"].values())
        batch = phase["mean_batch_size"]
        void = ' <span class="bad">void</span>' if phase["void"] else ""
        rows.append(
            f"<tr><td>{html.escape(phase['label'])}{void}</td>"
            f"<td>{phase['requests_per_second']:,.1f}</td>{''.join(cells)}"
            f"<td{' class=bad' if errors else ''}>{errors:,}</td>"
            f"<td>{'-' if batch is None else f'{batch:.2f}'}</td></tr>"
        )
    return (
        f'<div class="scroll"><table><tr><th></th><th>requests/s</th>{head}<th>errors</th>'
        f"<th>mean batch</th></tr>{''.join(rows)}</table></div>"
    )


def _curve(phases: Sequence[dict[str, Any]]) -> str:
    """Latency against throughput: a point for each phase, joined where all went to one server."""
    several = len({phase["url"] for phase in phases}) > 1
    series = []
    for url_number, url in enumerate(dict.fromkeys(phase["url"] for phase in phases)):
        measured = [p for p in phases if p["latency_ms"] and p["url"] == url]
        ordered = sorted(measured, key=lambda p: (p["offered_rate"], p["concurrency"]))
        for number, name in enumerate(("p50", "p99")):
            series.append(
                Series(
                    f"{name} of {url}" if several else name,
                    [(p["requests_per_second"], p["latency_ms"][name]["value"]) for p in ordered],
                    COLOURS[(url_number * 2 + number) % len(COLOURS)],
                    marked=True,
                    # Rounds of a comparison have the same load, so that a line means nothing.
                    joined=not several,
                    labels=[
                        f"{p['label']}: {p['requests_per_second']:,.1f}/s, {name} "
                        f"{p['latency_ms'][name]['value']:.2f} ms"
                        for p in ordered
                    ],
                )
            )
    return chart("Latency against throughput", series, "requests/s", "ms", y_scale="log")


def _percentiles(phases: Sequence[Phase]) -> str:
    series = []
    for number, phase in enumerate(phases[: len(COLOURS)]):
        records = phase.measured
        answered = records["latency"][records["status"] == OK]
        if not len(answered):
            continue
        # Percentiles beyond the last request do not exist.
        shown = _TAIL[(1 - _TAIL / 100) * len(answered) >= 1]
        values = np.percentile(answered, shown) * 1e3
        points = list(zip(shown.tolist(), values.tolist(), strict=True))
        series.append(Series(phase.label, points, COLOURS[number]))
    return chart("Latency by percentile", series, "percentile", "ms", "percentile", "log")


def _over_time(phase: Phase) -> str:
    found = over_time(phase)
    time = found["time"].tolist()

    def series(name: str, colour: int) -> Series:
        return Series(name, list(zip(time, found[name].tolist(), strict=True)), COLOURS[colour])

    latency = chart(
        "Latency over time",
        [series("p50", 0), series("p99", 1)],
        "s",
        "ms",
        y_scale="log",
        shaded=phase.begin,
    )
    rates = [series("rate", 2)]
    if found["errors"].any():
        rates.append(series("errors", 1))
    return latency + chart("Answers over time", rates, "s", "per second", shaded=phase.begin)
