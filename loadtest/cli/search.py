"""`convserve loadtest search`."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from loadtest.cli import options as o
from loadtest.cli.output import Reports, deliver, fail, failing
from loadtest.cli.progress import Progress
from loadtest.generator.arrivals import OPEN_KINDS, Arrivals, Kind
from loadtest.generator.fleet import Fleet, Interrupt
from loadtest.measurement.phase_runner import PhaseRunner, PhaseTerms
from loadtest.measurement.rate_search import Goal, RateSearch, Step, judge
from loadtest.measurement.server_counters import Observer
from loadtest.report.text import tried
from loadtest.results import OK, Phase, Run
from loadtest.wire.prepare import prepare
from serving.base.command import AsJson
from serving.cli.credentials import with_credentials
from serving.cli.tls_options import with_tls
from serving.client.tls import ClientTls

_GOAL = "Goal"
# Callers and seconds of the closed loop whose rate, halved, is the first step. More callers and
# seconds come nearer to the server's limit.
_SOUNDING_CONCURRENCY = 16
_SOUNDING_SECONDS = 2.0


@with_credentials
@with_tls
@failing
def search(
    url: o.Url,
    model: o.Models,
    p99: Annotated[str, typer.Option(help="Largest p99, such as 50ms.", rich_help_panel=_GOAL)],
    error_rate: Annotated[
        float,
        typer.Option(help="Largest share of errors.", min=0.0, max=1.0, rich_help_panel=_GOAL),
    ] = 0.0,
    precision: Annotated[
        float,
        typer.Option(
            help="How finely rates are told apart.", min=0.005, max=1.0, rich_help_panel=_GOAL
        ),
    ] = 0.05,
    fail_below: Annotated[
        float, typer.Option(help="Exit 1 where the rate found is lower.", rich_help_panel=_GOAL)
    ] = 0.0,
    start: Annotated[float, typer.Option(help="First rate; 0 finds one by itself.", min=0.0)] = 0.0,
    highest: Annotated[float, typer.Option(help="No rate above this; 0 is no limit.", min=0.0)] = 0,
    arrivals: Annotated[Kind, typer.Option(help="How the requests arrive.")] = "poisson",
    burst_size: Annotated[int, typer.Option(help="Requests of one burst.", min=1)] = 16,
    duration: Annotated[str, typer.Option(help="Measured time of each step.")] = "5s",
    warmup: Annotated[str, typer.Option(help="Time before it, which is left out.")] = "1s",
    curve: Annotated[
        int,
        typer.Option(help="Then measure so many rates up to the one found, evenly apart.", min=0),
    ] = 0,
    images: o.Images = None,
    labelled: o.Labelled = None,
    synthetic: o.Synthetic = None,
    npy: o.Npy = None,
    shape: o.Shape = None,
    rows: o.Rows = 1,
    api: o.ApiOption = "auto",
    streams: o.Streams = 0,
    deadline: o.Deadline = "",
    priority: o.Priority = "",
    timeout: o.Timeout = "30s",
    workers: o.Workers = 1,
    seed: o.Seed = 0,
    max_in_flight: o.MaxInFlight = 10_000,
    max_lateness: o.MaxLateness = "10ms",
    metrics_url: o.MetricsUrl = None,
    as_json: AsJson = False,
    output: o.Output = None,
    html: o.Html = None,
    *,
    tls: ClientTls | None,
    headers: Mapping[str, str] | None,
) -> None:
    """Find the highest rate that keeps a p99."""
    reports = Reports(as_json, output, html)
    reports.check_places()
    if arrivals not in OPEN_KINDS:
        raise typer.BadParameter(f"expected {', '.join(OPEN_KINDS)}", param_hint="'--arrivals'")
    lateness = o.read("--max-lateness", max_lateness, o.duration)
    goal = Goal(o.read("--p99", p99, o.latency), error_rate, precision, lateness)
    terms = PhaseTerms(
        warmup=o.read("--warmup", warmup, o.duration),
        seconds=o.read("--duration", duration, o.positive_duration),
        workers=workers,
        seed=seed,
        max_in_flight=max_in_flight,
    )
    weights = o.weighted(model)
    content = o.contents(list(weights), images, labelled, synthetic, npy, shape, rows)
    workload = o.to_workload(
        {url: prepare(url, content, api=api, seed=seed, tls=tls, headers=headers)},
        weights,
        deadline=deadline,
        priority=priority,
        seed=seed,
        timeout=timeout,
        streams=streams,
        tls=tls,
        headers=headers,
    )
    observer = Observer(url, list(weights), metrics_url, tls, headers)
    phases: list[Phase] = []
    with Interrupt() as interrupt, Fleet(workload, workers) as fleet:
        runner = PhaseRunner(fleet, terms, Progress(), interrupt)

        def play(rate: float, times: int = 1) -> Phase:
            phase = runner.run(
                f"step {len(phases) + 1}: {rate:.1f}/s",
                url,
                Arrivals(arrivals, rate=rate, burst_size=burst_size),
                observer,
                seconds=terms.seconds * times,
            )
            phases.append(phase)
            return phase

        def measure(rate: float, times: int) -> Step | None:
            phase = play(rate, times)
            return None if runner.interrupted else judge(phase, goal)

        first = start or _sound(runner, url, observer) / 2
        found = RateSearch(measure, goal, highest).run(first)
        if found.best is not None:
            for number in range(curve):
                if runner.interrupted:
                    break
                play(found.best.rate * (number + 1) / curve)
    settings = {"seed": seed, "max_lateness": lateness, "search": found.document(goal)}
    run = Run(settings, tuple(weights), tuple(phases))
    deliver(run, reports, interrupted=runner.interrupted)
    if found.best is None:
        why = f" ({tried(asdict(found.next))})" if found.next is not None else ""
        fail(f"no rate keeps p99 {p99} with at most {error_rate:.2%} errors{why}")
    if found.best.rate < fail_below:
        fail(f"{found.best.rate:.1f} requests/s are less than the {fail_below:g} asked for")


def _sound(runner: PhaseRunner, url: str, observer: Observer) -> float:
    """Requests/s that the server answers in a short closed loop, at least 1."""
    phase = runner.run(
        "sounding",
        url,
        Arrivals("closed", concurrency=_SOUNDING_CONCURRENCY),
        observer,
        warmup=0.5,
        seconds=_SOUNDING_SECONDS,
    )
    answered = int((phase.measured["status"] == OK).sum())
    if not answered and not runner.interrupted:
        fail(f"{url}: no request was answered")
    return max(answered / phase.seconds, 1.0)
