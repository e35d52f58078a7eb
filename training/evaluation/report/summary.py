"""The answer that a page begins with, and the table behind its first plot."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from serving.base.evaluation import Estimate
from training.evaluation.report.document import Report
from training.evaluation.report.measured import Measured, Verified
from training.recipes.tasks import MEASURE_TITLES

MOST_SIZES = 8
"""Batch sizes that a table has columns for."""

Tone = Literal["good", "bad", "open"]


@dataclass(frozen=True)
class Row:
    """A network in an engine, as the first plot and its table show it.

    number: beside its dot.
    kind: a variant of this build, the network before pruning, or the last published version.
    drop, agreement: None for the network before pruning.
    parameters: None where they are not known.
    passed: the gate's verdict; None for the network before pruning.
    """

    number: int
    kind: Literal["build", "unpruned", "previous"]
    title: str
    engine: str
    accuracy: Estimate
    drop: Estimate | None
    agreement: float | None
    size_bytes: int | None
    milliseconds: Mapping[int, float]
    machine: str
    passed: bool | None


@dataclass(frozen=True)
class Figure:
    """One of the numbers at the top: its name, the number, and the lines under it."""

    name: str
    value: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Headline:
    """The answer.

    verdict: whether the build is published, in a sentence; `reason` says why not.
    figures: accuracy, speed and size of the variant that is served first.
    """

    tone: Tone
    verdict: str
    reason: str
    figures: tuple[Figure, ...]


def rows_of(report: Report) -> list[Row]:
    """The network before pruning, all variants, and the last published version where its accuracy
    can be compared."""
    found = report.verified
    if found is None:
        return []
    rows: list[Row] = []

    def add(kind: Literal["build", "unpruned", "previous"], title: str, one: Measured) -> None:
        evidence = one.evidence
        rows.append(
            Row(
                number=len(rows) + 1,
                kind=kind,
                title=title,
                engine=one.engine,
                accuracy=evidence.accuracy,
                drop=evidence.drop,
                agreement=evidence.agreement,
                size_bytes=one.size_bytes,
                milliseconds=evidence.latency.milliseconds,
                machine=evidence.latency.machine,
                passed=evidence.gate.passed,
            )
        )

    machines = {one.engine: one.evidence.latency.machine for one in found.entries}
    timed: Mapping[str, Mapping[int, float]] = found.baseline_latency or {found.baseline_engine: {}}
    # Without pruning it is the network of the FP32 file, which has rows of its own.
    alike = not is_pruned(found) and any(
        one.evidence.accuracy.value == found.baseline.value for one in found.entries
    )
    for engine, taken in ({} if alike else timed).items():
        rows.append(
            Row(
                number=len(rows) + 1,
                kind="unpruned",
                title="FP32, not pruned" if is_pruned(found) else "FP32, as trained",
                engine=engine,
                accuracy=found.baseline,
                drop=None,
                agreement=None,
                size_bytes=found.baseline_bytes,
                milliseconds=taken,
                machine=machines.get(engine, ""),
                passed=None,
            )
        )
    for one in found.entries:
        add("build", one.variant, one)
    if report.previous is not None and not report.previous.other:
        for one in report.previous.entries:
            add("previous", f"version {report.previous.version}, {one.variant}", one)
    return rows


def is_pruned(found: Verified) -> bool:
    """Whether the exported network is smaller than the trained one."""
    return found.network_size != found.baseline_size


def batch_sizes(rows: Iterable[Row]) -> list[int]:
    """The sizes that were timed, the smallest first; as many as a table has columns for."""
    found = sorted({size for row in rows for size in row.milliseconds})
    return found if len(found) <= MOST_SIZES else [*found[: MOST_SIZES - 1], found[-1]]


def headline(report: Report) -> Headline:
    """The answer of a run."""
    tone, verdict = _verdict(report)
    found = report.verified
    best = found.best if found is not None else None
    figures: tuple[Figure, ...] = ()
    if found is not None and best is not None:
        figures = (
            _accuracy(report, found, best),
            _speed(report, found, best),
            _size(report, found, best),
        )
    return Headline(tone, verdict, report.state.reason, figures)


def _verdict(report: Report) -> tuple[Tone, str]:
    state = report.state
    if state.kind == "published" and report.published is not None:
        return "good", f"Published as version {report.published.version}"
    if state.kind == "refused":
        return "bad", "Not published: the gate refused it"
    text = str(state)
    return ("bad" if state.kind == "failed" else "open"), text[0].upper() + text[1:]


def _accuracy(report: Report, found: Verified, best: Measured) -> Figure:
    evidence = best.evidence
    accuracy, drop = evidence.accuracy, evidence.drop
    counted = "probes" if report.measure == "rank1" else "test images"
    lines = [
        f"95 % interval {interval(accuracy)}, {accuracy.n:,} {counted}",
        f"FP32 {'before pruning' if is_pruned(found) else 'as trained'}: "
        f"{100 * found.baseline.value:.2f} %; {_points(-drop.value)} here, interval "
        f"{_points(-drop.high)} to {_points(-drop.low)}",
    ]
    former = _former(report, best)
    if former is not None and report.previous is not None:
        change = accuracy.value - former.evidence.accuracy.value
        lines.append(
            f"version {report.previous.version}: "
            f"{100 * former.evidence.accuracy.value:.2f} %; {_points(change)} here"
        )
    elif report.previous is not None:
        lines.append(
            f"not compared with version {report.previous.version}: {report.previous.other}"
        )
    return Figure(MEASURE_TITLES[report.measure], f"{100 * accuracy.value:.2f} %", tuple(lines))


def _speed(report: Report, found: Verified, best: Measured) -> Figure:
    latency = best.evidence.latency
    if not latency.milliseconds:
        return Figure("latency", "not measured", ())
    batch = min(latency.milliseconds)
    own = latency.milliseconds[batch]
    largest = max(latency.milliseconds)
    lines = []
    if largest > batch:
        together = latency.milliseconds[largest]
        rate = f"{1000 * largest / together:,.0f} images/s" if together > 0 else ""
        lines.append(f"{milliseconds(together)} ms for {largest} at once, {rate}")
    fp32 = f"FP32 {'before pruning' if is_pruned(found) else 'as trained'}"
    before = found.baseline_latency.get(best.engine, {})
    for size in dict.fromkeys((batch, largest)):
        past, now = before.get(size), latency.milliseconds[size]
        if past and now:
            lines.append(
                f"{faster(past / now, fp32)} in {best.engine}, batch {size} "
                f"({milliseconds(past)} ms)"
            )
    former = _former(report, best)
    if former is not None and report.previous is not None:
        theirs = former.evidence.latency
        past = theirs.milliseconds.get(batch)
        number = report.previous.version
        if theirs.machine != latency.machine:
            lines.append(f"version {number} was timed on {theirs.machine}: not compared")
        elif past and own:
            lines.append(
                f"{faster(past / own, f'version {number}')} "
                f"({former.title}, {milliseconds(past)} ms)"
            )
    lines.append(f"{latency.machine}")
    return Figure(f"latency, batch {batch}", f"{milliseconds(own)} ms", tuple(lines))


def _size(report: Report, found: Verified, best: Measured) -> Figure:
    size = best.size_bytes or 0
    lines = []
    if found.baseline_bytes and size:
        lines.append(
            f"FP32 {'before pruning' if is_pruned(found) else 'as trained'}: "
            f"{kibibytes(found.baseline_bytes)}, {times(found.baseline_bytes / size)} as large"
        )
    before, after = found.baseline_size, found.network_size
    lines.append(
        f"{after.parameters:,} parameters, {after.macs / 1e9:.4g} GMACs an image"
        + (
            f"; before pruning {before.parameters:,} and {before.macs / 1e9:.4g}"
            if is_pruned(found)
            else ""
        )
    )
    height, width = report.input_size
    lines.append(f"sees {width}x{height}, {'colour' if report.channels == 3 else 'grey'}")
    return Figure("file", kibibytes(size), tuple(lines))


def _former(report: Report, best: Measured) -> Measured | None:
    """The last version in the same variant and engine, or the fastest that passed; None where its
    accuracy is of other images."""
    if report.previous is None or report.previous.other:
        return None
    entries = report.previous.entries
    for one in entries:
        if (one.variant, one.engine) == (best.variant, best.engine):
            return one
    passed = [
        one for one in entries if one.evidence.gate.passed and one.evidence.latency.milliseconds
    ]
    return min(
        passed, key=lambda one: max(one.evidence.latency.milliseconds.items())[1], default=None
    )


def interval(estimate: Estimate) -> str:
    """An interval in per cent."""
    return f"{100 * estimate.low:.2f} to {100 * estimate.high:.2f}"


def _points(value: float) -> str:
    """A difference of accuracy; a real minus, no "-0.00"."""
    shown = f"{100 * value:+.2f}"
    return f"{'0.00' if float(shown) == 0 else shown.replace('-', chr(0x2212))} points"


def milliseconds(value: float) -> str:
    """Milliseconds to three digits."""
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def times(ratio: float) -> str:
    """A ratio in words."""
    return f"{ratio:.2f} times" if ratio < 10 else f"{ratio:,.0f} times"


def faster(ratio: float, other: str) -> str:
    """How many times as fast as another, whose time is `ratio` of ours."""
    if ratio >= 1:
        return f"{times(ratio)} as fast as {other}"
    return f"takes {times(1 / ratio)} as long as {other}"


def kibibytes(size: int | None) -> str:
    """A size of a file."""
    if size is None:
        return ""
    return f"{size / 1024:,.0f} KiB" if size < 10 << 20 else f"{size / (1 << 20):,.1f} MiB"
