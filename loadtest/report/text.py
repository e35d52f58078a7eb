"""The report of a run as text for a terminal."""

from typing import Any

_NAME_WIDTH = 17
# Characters of a line. Only names of a server that fills the screen make longer ones.
_LINE_LENGTH = 2000
# The p99 of a caller that waits for answers is shown where the real one is this many times higher.
_NAIVE = 2


def render(document: dict[str, Any]) -> str:
    """Text of a document of `summarise`. Its names may be those of a server, or of a file."""
    document = _printable(document)
    if not document["phases"]:
        return "no phase was run"
    # Steps of a search have a line each in the table.
    blocks = [_phase(phase) for phase in document["phases"] if "search" not in document["settings"]]
    if len(document["phases"]) > 1:
        blocks.append(_table(document["phases"]))
    return "\n\n".join([*blocks, *conclusions(document)])


def _printable(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case dict():
            return {_printable(key): _printable(each) for key, each in value.items()}
        case list():
            return [_printable(each) for each in value]
    return value


def printable(line: str) -> str:
    """A line as a terminal and XML may have it: blanks for control characters (escape sequences,
    marks that turn the direction of writing), and no more than 2000 characters."""
    if not line.isprintable():
        line = "".join(c if c.isprintable() else " " for c in line)
    return line if len(line) <= _LINE_LENGTH else f"{line[: _LINE_LENGTH - 2]} …"


def conclusions(document: dict[str, Any]) -> list[str]:
    """The outcome of a comparison or a search, as text."""
    found = []
    if "comparison" in document:
        found.append(_comparison(document["comparison"]))
    if "search" in document["settings"]:
        interrupted = any(phase["interrupted"] for phase in document["phases"])
        found.append(_search(document["settings"]["search"], interrupted=interrupted))
    return found


def _phase(phase: dict[str, Any]) -> str:
    lines = [_heading(phase)]
    if phase["void"]:
        lines.append(_row("VOID", phase["void"]))
    if not phase["requests"]:
        lines.append(_row("requests", "none after the warm-up"))
        return "\n".join(lines)
    lines.append(_row("requests/s", _rates(phase)))
    lines += _latency(phase)
    lines.append(_row("errors", _errors(phase)))
    lines += _answers(phase)
    lines += _server(phase["server"])
    generator = phase["generator"]
    late = generator["lateness_ms"]
    lines.append(
        _row(
            "generator",
            f"{generator['workers']} worker{'s' * (generator['workers'] > 1)}, "
            f"{generator['cpu']:.0%} of a CPU, sent late by p99 {late['p99']:.2f} ms "
            f"(at most {late['max']:.2f} ms)",
        )
    )
    for name, model in phase.get("by_model", {}).items():
        lines.append(_row(name, _of_model(model)))
    return "\n".join(lines)


def _heading(phase: dict[str, Any]) -> str:
    ended = ", ended early" if phase["interrupted"] else ""
    return f"{phase['label']}: {phase['url']}, {phase['seconds']:.1f} s measured{ended}"


def _row(name: str, text: str) -> str:
    return f"  {name:<{_NAME_WIDTH}}{text}"


def _rates(phase: dict[str, Any]) -> str:
    text = f"{phase['requests_per_second']:,.1f}"
    if phase["offered_rate"]:
        text += f" of {phase['offered_rate']:,.1f} offered"
    if phase["images_per_second"] > phase["requests_per_second"] * 1.001:
        text += f", {phase['images_per_second']:,.1f} images/s"
    if "goodput_per_second" in phase:
        text += f", {phase['goodput_per_second']:,.1f} in time ({phase['good_rate']:.2%})"
    return text


def _latency(phase: dict[str, Any]) -> list[str]:
    latency = phase["latency_ms"]
    if not latency:
        return [_row("latency", "nothing was answered")]
    lines = []
    for name, found in latency.items():
        if isinstance(found, dict):
            text = f"{found['value']:8.2f} ms  (95 %: {found['low']:.2f} to {found['high']:.2f})"
            lines.append(_row(name, text))
    lines.append(_row("mean, max", f"{latency['mean']:8.2f} ms, {latency['max']:.2f} ms"))
    naive = phase["naive_p99_ms"]
    if naive is not None and latency["p99"]["value"] > _NAIVE * naive:
        lines.append(
            _row("", f"a caller that waits for each answer would have reported p99 {naive:.2f} ms")
        )
    stability = phase["p99_stability"]
    if stability["relative"] is None:
        lines.append(_row("", "p99 is not known: too few requests beyond it"))
    elif not stability["stable"]:
        lines.append(
            _row(
                "",
                f"p99 is not stable: known to ±{stability['relative']:.0%}, asked for "
                f"±{stability['tolerance']:.0%}; run longer",
            )
        )
    return lines


def _errors(phase: dict[str, Any]) -> str:
    if not phase["errors"]:
        return "0"
    by_status = ", ".join(f"{name} {count:,}" for name, count in phase["errors"].items())
    return f"{sum(phase['errors'].values()):,} ({phase['error_rate']:.2%}): {by_status}"


def _answers(phase: dict[str, Any]) -> list[str]:
    lines = []
    if phase["mean_batch_size"]:
        lines.append(
            _row(
                "mean batch size",
                f"{phase['mean_batch_size']:.2f} (from {phase['batch_size_from']})",
            )
        )
    if phase["stages_ms"]:
        lines.append(
            _row(
                "server stages",
                ", ".join(
                    f"{stage} {found['mean']:.2f} ms (p99 {found['p99']:.2f})"
                    for stage, found in phase["stages_ms"].items()
                ),
            )
        )
    if "accuracy" in phase:
        found = phase["accuracy"]
        lines.append(
            _row(
                "accuracy",
                f"{found['value']:.2%} of {found['checked']:,} answers right "
                f"(95 %: {found['low']:.2%} to {found['high']:.2%})",
            )
        )
    return lines


def _server(server: dict[str, Any]) -> list[str]:
    lines = []
    for source in ("metrics", "statistics"):
        if source in server:
            found = server[source]
            stages = ", ".join(f"{name} {ms:.2f} ms" for name, ms in found["mean_ms"].items())
            lines.append(
                _row(
                    f"server {source}"[: _NAME_WIDTH - 1],
                    f"{stages}; {found['executions']:,} batches of {found['mean_batch_size']:.2f}",
                )
            )
    if "resident_bytes" in server:
        cpu = f"{server['cpu']:.0%} of a CPU, " if "cpu" in server else ""
        lines.append(
            _row(
                "server host",
                f"{cpu}{server['resident_bytes'] / 2**20:,.0f} MiB",
            )
        )
    return lines


def _of_model(model: dict[str, Any]) -> str:
    parts = [f"{model['requests_per_second']:,.1f} requests/s"]
    parts += [
        f"{name} {found['value']:.2f} ms"
        for name, found in model["latency_ms"].items()
        if name in ("p50", "p99")
    ]
    parts.append(f"{sum(model['errors'].values())} errors")
    if "accuracy" in model:
        parts.append(f"accuracy {model['accuracy']['value']:.2%}")
    return ", ".join(parts)


def _table(phases: list[dict[str, Any]]) -> str:
    """A line for each phase."""
    head = f"{'':<24}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}{'errors':>9}{'batch':>8}"
    lines = [head]
    for phase in phases:
        p50, p99 = (phase["latency_ms"].get(p, {}).get("value") for p in ("p50", "p99"))
        batch = phase["mean_batch_size"]
        lines.append(
            f"{phase['label']:<24}{phase['requests_per_second']:>12,.1f}{_number(p50):>10}"
            f"{_number(p99):>10}{sum(phase['errors'].values()):>9,}{_number(batch):>8}"
            + ("  void" if phase["void"] else "")
        )
    return "\n".join(lines)


def _comparison(found: dict[str, Any]) -> str:
    lines = [f"B against A, {found['rounds']} rounds"]
    for name in ("requests_per_second", "p50", "p99"):
        ratio = found[name]
        if ratio["ratio"] is None:
            text = "not measured"
        elif ratio["low"] is None:
            text = f"{ratio['ratio']:.3f} x"
        else:
            text = f"{ratio['ratio']:.3f} x  (95 %: {ratio['low']:.3f} to {ratio['high']:.3f})"
            text += "" if ratio["low"] > 1 or ratio["high"] < 1 else ", no difference shown"
        lines.append(_row(name.replace("requests_per_second", "requests/s"), text))
    return "\n".join(lines)


def _search(found: dict[str, Any], *, interrupted: bool) -> str:
    limit = f"p99 {found['p99_limit_ms']:g} ms, errors {found['error_rate_limit']:.2%}"
    best, following = found["best"], found["next"]
    if best is None:
        outcome = "interrupted before a rate kept" if interrupted else "no rate keeps"
        return f"{outcome} {limit}" + (f" ({tried(following)})" if following else "")
    lines = [
        f"highest rate that keeps {limit}: {best['rate']:,.1f} requests/s",
        _row(
            "there",
            f"p99 {best['p99_ms']:.2f} ms (95 %: {best['low_ms']:.2f} to {best['high_ms']:.2f}), "
            f"errors {best['error_rate']:.2%}; kept in {best['confidence']:.1%} of resampled runs",
        ),
    ]
    if following is None:
        lines.append(_row("above", "not tried"))
    else:
        lines.append(
            _row(
                f"at {following['rate']:,.1f}",
                f"{following['reason']}; failed in {following['confidence']:.1%} of resampled runs"
                + (": the generator is the limit" if following["generator"] else ""),
            )
        )
    return "\n".join(lines)


def tried(step: dict[str, Any]) -> str:
    """The rate of a step of a search that failed, and the reason."""
    rate = step["rate"]
    return f"at {f'{rate:,.1f}' if rate >= 1 else f'{rate:g}'} requests/s: {step['reason']}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
