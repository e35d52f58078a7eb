"""`convserve loadtest run`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from loadtest.cli import options as o
from loadtest.cli.output import Reports, deliver, failing, named
from loadtest.cli.progress import Progress
from loadtest.generator.arrivals import (
    OPEN_KINDS,
    Arrivals,
    Kind,
    parse_concurrency,
    read_recording,
)
from loadtest.generator.fleet import Fleet, Interrupt
from loadtest.measurement.phase_runner import PhaseRunner, PhaseTerms
from loadtest.measurement.server_counters import Observer
from loadtest.results import Run
from loadtest.wire.prepare import prepare
from serving.base.command import AsJson
from serving.base.machine.terminal import next_step
from serving.cli.credentials import with_credentials
from serving.cli.tls_options import with_tls
from serving.client.tls import ClientTls

_ARRIVALS = "Arrivals"
_AGAINST = "Comparison"


@with_credentials
@with_tls
@failing
def run(
    url: o.Url,
    model: o.Models,
    images: o.Images = None,
    labelled: o.Labelled = None,
    synthetic: o.Synthetic = None,
    npy: o.Npy = None,
    shape: o.Shape = None,
    rows: o.Rows = 1,
    api: o.ApiOption = "auto",
    concurrency: Annotated[
        str,
        typer.Option(
            help="Closed loop: requests kept open. 8, or one after the other 1,4,16 or 1..64.",
            show_default="1, without --rate and --replay",
            rich_help_panel=_ARRIVALS,
        ),
    ] = "",
    rate: Annotated[
        str,
        typer.Option(
            help="Open loop: requests/s, whatever the server does. 200, or 100,200,400.",
            rich_help_panel=_ARRIVALS,
        ),
    ] = "",
    arrivals: Annotated[
        Kind,
        typer.Option(help="How the requests of --rate arrive.", rich_help_panel=_ARRIVALS),
    ] = "poisson",
    burst_size: Annotated[
        int,
        typer.Option(help="Requests of one burst.", min=1, rich_help_panel=_ARRIVALS),
    ] = 16,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="Open loop: arrivals of a raw .npz file, or of text with seconds in each line.",
            rich_help_panel=_ARRIVALS,
        ),
    ] = None,
    duration: Annotated[
        str,
        typer.Option(help="Measured time of each load.", show_default="10s, or all of a --replay"),
    ] = "",
    warmup: Annotated[str, typer.Option(help="Time before it, which is left out.")] = "1s",
    requests: Annotated[
        int, typer.Option(help="Closed loop: end after so many requests.", min=0)
    ] = 0,
    stable: Annotated[
        float | None,
        typer.Option(min=0.001, help="End a load once p99 is known to this share, such as 0.05."),
    ] = None,
    objective: Annotated[
        str, typer.Option(help="An answer within this time is good (goodput).")
    ] = "",
    against: Annotated[
        str,
        typer.Option(
            help="A second server, B; A and B take turns, each for --duration.",
            rich_help_panel=_AGAINST,
        ),
    ] = "",
    against_model: Annotated[
        list[str] | None,
        typer.Option(help="B's names of the models, in order.", rich_help_panel=_AGAINST),
    ] = None,
    rounds: Annotated[
        int, typer.Option(help="Turns of each.", min=2, rich_help_panel=_AGAINST)
    ] = 5,
    streams: o.Streams = 0,
    deadline: o.Deadline = "",
    priority: o.Priority = "",
    timeout: o.Timeout = "30s",
    trace: o.Trace = 0.0,
    workers: o.Workers = 1,
    seed: o.Seed = 0,
    max_in_flight: o.MaxInFlight = 10_000,
    max_lateness: o.MaxLateness = "10ms",
    metrics_url: o.MetricsUrl = None,
    as_json: AsJson = False,
    output: o.Output = None,
    html: o.Html = None,
    junit: o.JUnit = None,
    fail_if: o.FailIf = None,
    *,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Send requests to a server and measure its answers."""
    reports = Reports(as_json, output, html, junit, o.conditions(fail_if))
    reports.check_places()
    loads = _loads(concurrency, rate, arrivals, burst_size, replay)
    weights = o.weighted(model)
    content = o.contents(list(weights), images, labelled, synthetic, npy, shape, rows)
    terms = PhaseTerms(
        warmup=o.read("--warmup", warmup, o.duration),
        seconds=_seconds(duration, loads[0][1]),
        workers=workers,
        seed=seed,
        max_in_flight=max_in_flight,
        requests=requests,
        stable=stable,
    )
    settings = named(
        {
            "seed": seed,
            "stable": stable or 0.1,
            "max_lateness": o.read("--max-lateness", max_lateness, o.duration),
            "objective": o.read("--objective", objective, o.latency) if objective else 0.0,
        },
        against=against,
        images=images,
        labelled=labelled,
        synthetic=synthetic,
        npy=npy,
        rows=rows,
        streams=streams,
        deadline=deadline,
        priority=priority,
        timeout=timeout,
        trace=trace,
        cpus=os.cpu_count(),
    )
    prepared = {url: prepare(url, content, api=api, seed=seed, tls=tls, headers=headers)}
    observers = {url: Observer(url, list(weights), metrics_url, tls, headers)}
    if against:
        others = _others(url, against, against_model, list(weights), loads)
        contents = dict(zip(others, content.values(), strict=True))
        prepared[against] = prepare(against, contents, api=api, seed=seed, tls=tls, headers=headers)
        observers[against] = Observer(against, others, None, tls, headers)
        turns = [(f"{name} {n + 1}", u) for n in range(rounds) for name, u in _names(url, against)]
        phases_wanted = [(label, each_url, loads[0][1]) for label, each_url in turns]
    else:
        phases_wanted = [(label, url, each) for label, each in loads]
    workload = o.to_workload(
        prepared,
        weights,
        deadline=deadline,
        priority=priority,
        seed=seed,
        timeout=timeout,
        streams=streams,
        tls=tls,
        trace=trace,
        headers=headers,
    )
    phases = []
    with Interrupt() as interrupt, Fleet(workload, workers) as fleet:
        runner = PhaseRunner(fleet, terms, Progress(), interrupt)
        for label, each_url, each in phases_wanted:
            phases.append(runner.run(label, each_url, each, observers[each_url]))
            if runner.interrupted:
                break
    found = Run(settings, tuple(weights), tuple(phases))
    deliver(found, reports, interrupted=runner.interrupted)
    if not as_json:
        models = [word for name in model for word in ("--model", name)]
        next_step("loadtest", "search", "--url", url, *models, "--p99", "50ms")


def _loads(
    concurrency: str, rate: str, kind: Kind, burst_size: int, replay: Path | None
) -> list[tuple[str, Arrivals]]:
    """Label and arrivals of each phase."""
    if sum((bool(concurrency), bool(rate), replay is not None)) > 1:
        raise typer.BadParameter("give one of --concurrency, --rate and --replay")
    if replay is not None:
        return [(f"replay of {replay.name}", Arrivals("replay", times=read_recording(replay)))]
    if rate:
        if kind not in OPEN_KINDS:
            raise typer.BadParameter(
                f"--rate goes with {', '.join(OPEN_KINDS)}", param_hint="'--arrivals'"
            )
        return [
            (f"{kind} {each:g}/s", Arrivals(kind, rate=each, burst_size=burst_size))
            for each in o.read("--rate", rate, _rates)
        ]
    levels = o.read("--concurrency", concurrency or "1", parse_concurrency)
    return [(f"concurrency {n}", Arrivals("closed", concurrency=n)) for n in levels]


def _seconds(duration: str, arrivals: Arrivals) -> float:
    """Measured time of each load."""
    if duration or arrivals.kind != "replay":
        return o.read("--duration", duration or "10s", o.positive_duration)
    # The last request is due at the very end, and must be inside.
    return arrivals.times[-1] + 1e-3


def _rates(text: str) -> tuple[float, ...]:
    rates = tuple(float(part) for part in text.split(","))
    if not all(0 < rate < float("inf") for rate in rates):
        raise ValueError(f"expected rates above 0, got {text!r}")
    return rates


def _names(url: str, against: str) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("A", url), ("B", against)


def _others(
    url: str,
    against: str,
    named_models: list[str] | None,
    models: list[str],
    loads: list[tuple[str, Arrivals]],
) -> list[str]:
    """B's names of the models."""
    if url == against:
        raise typer.BadParameter("A and B have the same address", param_hint="'--against'")
    if len(loads) > 1:
        raise typer.BadParameter("a comparison has one load", param_hint="'--against'")
    if named_models and len(named_models) != len(models):
        raise typer.BadParameter(
            f"expected {len(models)} names, got {len(named_models)}",
            param_hint="'--against-model'",
        )
    return named_models or models
