"""The variants' table, as the terminal shows it and as --json tells it."""

import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.base.evaluation import Estimate
from serving.base.machine.terminal import records
from serving.base.text import escaped
from serving.repository.manifest import Evidence
from training.evaluation.verification import VariantResult, Verification
from training.recipes.tasks import MEASURE_TITLES

# Times the width of a terminal up to which a table is folded into it, as in serving.cli.table.
_FOLDED = 2
# Characters of a table that none is wider than, whatever the terminal.
_MOST = 10_000

Rows = list[dict[str, str]]


def variant_rows(verification: Verification) -> Rows:
    """One row a variant and engine, the unpruned FP32 network first; texts ready to be shown."""
    title = MEASURE_TITLES[verification.measure]
    baseline = verification.baseline_size
    rows = [
        {
            "variant": "trained",
            "engine": verification.baseline_engine,
            f"{title} %": percent(verification.baseline),
            "drop, points": "",
            "agreement %": "",
            "KiB": "",
            "GMACs": f"{baseline.macs / 1e9:.4f}",
            "parameters": f"{baseline.parameters:,}",
            **{f"b{size} ms": "" for size in _batch_sizes(verification)},
            "gate": "",
        }
    ]
    network = verification.network_size
    for result in verification.variants:
        for engine, evidence in result.evidence.items():
            size = {
                "GMACs": f"{network.macs / 1e9:.4f}",
                "parameters": f"{network.parameters:,}",
            }
            rows.append(evidence_row(result, engine, evidence, title, size))
    return rows


def evidence_row(
    result: VariantResult,
    engine: str,
    evidence: Evidence,
    title: str,
    size: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """A variant in an engine, ready to be shown. `title` is that of the accuracy; `size` stands
    behind the file's."""
    return {
        "variant": result.id,
        "engine": engine,
        f"{title} %": percent(evidence.accuracy),
        "drop, points": percent(evidence.drop),
        "agreement %": f"{100 * evidence.agreement:.2f}",
        "KiB": f"{result.size_bytes / 1024:.0f}",
        **size,
        **{f"b{n} ms": f"{ms:.2f}" for n, ms in evidence.latency.milliseconds.items()},
        "gate": "passed" if evidence.gate.passed else "FAILED",
    }


def variant_documents(verification: Verification) -> list[dict[str, Any]]:
    """The same rows as numbers, for --json; None where variant_rows has an empty cell."""
    baseline, network = verification.baseline_size, verification.network_size
    trained = {
        "variant": "trained",
        "engine": verification.baseline_engine,
        "accuracy": verification.baseline.model_dump(),
        "measures": {},
        "drop": None,
        "agreement": None,
        "size_bytes": None,
        "latency_ms": {},
        "passed": None,
        "parameters": baseline.parameters,
        "macs": baseline.macs,
    }
    measured = [
        evidence_document(result, engine, evidence)
        | {"parameters": network.parameters, "macs": network.macs}
        for result in verification.variants
        for engine, evidence in result.evidence.items()
    ]
    return [trained, *measured]


def evidence_document(result: VariantResult, engine: str, evidence: Evidence) -> dict[str, Any]:
    """A variant in an engine as numbers; accuracy, drop and agreement are fractions of 1."""
    return {
        "variant": result.id,
        "engine": engine,
        **evidence.model_dump(include={"accuracy", "measures", "drop", "agreement"}),
        "size_bytes": result.size_bytes,
        "latency_ms": dict(evidence.latency.milliseconds),
        "passed": evidence.gate.passed,
    }


def measure_rows(verification: Verification) -> Rows:
    """The further measures of each variant and engine; empty where the task has none."""
    return [
        {
            "variant": result.id,
            "engine": engine,
            **{
                f"{name}, %": percent(value)
                for name, value in evidence.measures.items()
                if isinstance(value, Estimate)
            },
            **{
                name: f"{value:.4f}"
                for name, value in evidence.measures.items()
                if not isinstance(value, Estimate)
            },
        }
        for result in verification.variants
        for engine, evidence in result.evidence.items()
        if evidence.measures
    ]


def _batch_sizes(verification: Verification) -> list[int]:
    for result in verification.variants:
        for evidence in result.evidence.values():
            return list(evidence.latency.milliseconds)
    return []


def percent(estimate: Estimate) -> str:
    """Value and interval in per cent, or of a drop in points."""
    value, low, high = (100 * number for number in (estimate.value, estimate.low, estimate.high))
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def print_table(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows of equal keys on stdout: with lines on a terminal, as plain text elsewhere."""
    if not sys.stdout.isatty():
        _print_plain(title, rows)
        return
    table = Table(title=Text(escaped(title)), title_justify="left")
    for key in rows[0]:
        table.add_column(key, justify="left" if _is_text(rows, key) else "right")
    for row in rows:
        # As Text, so that "[red]" in a name is not read as markup.
        table.add_row(*(Text(escaped(str(value))) for value in row.values()))
    console = Console()
    whole = console.options.update(max_width=_MOST)
    if console.measure(table, options=whole).maximum > _FOLDED * console.width:
        cells = [[escaped(str(value)) for value in row.values()] for row in rows]
        console.print(Text(f"{escaped(title)}\n\n{records(rows[0], cells)}"))
    else:
        console.print(table)


def _print_plain(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}

    def line(values: Mapping[str, Any]) -> str:
        cells = (
            str(values[key]).ljust(width) if _is_text(rows, key) else str(values[key]).rjust(width)
            for key, width in widths.items()
        )
        return "  ".join(cells).rstrip()

    text = "\n".join([title, line({key: key for key in widths}), *(line(row) for row in rows)])
    sys.stdout.write(escaped(text) + "\n")


def _is_text(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    return not any(str(row[key])[:1].isdigit() for row in rows)
