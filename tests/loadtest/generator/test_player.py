"""The runner on a virtual clock: queues whose behaviour is known from theory."""

import asyncio
import itertools
import math
import re
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest

from loadtest.generator.arrivals import Arrivals, Kind
from loadtest.generator.player import Player, WorkerShare
from loadtest.report import summary
from loadtest.results import NOT_SENT, OK, UNANSWERED, Phase, Run, records_of
from loadtest.wire.messages import Outcome, Request

Clock = Callable[[Coroutine[Any, Any, Any]], Any]

ANSWER: Outcome = (OK, -1, 0, 0, 0, 0, 0)
REQUEST = Request(0, "Classify", b"", 1)


class OneServer:
    """Serves one request after the other, `service` seconds each; stands still in `stall`."""

    def __init__(self, service: float, stall: tuple[float, float] = (math.inf, math.inf)) -> None:
        self._service = service
        self._stall = stall
        self._free = 0.0

    async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
        clock = asyncio.get_running_loop().time
        begin = max(clock(), self._free)
        if self._stall[0] <= begin < self._stall[1]:
            begin = self._stall[1]
        self._free = begin + self._service
        await asyncio.sleep(self._free - clock())
        return ANSWER


def play(
    on_virtual_clock: Clock,
    client: Any,
    kind: Kind,
    seconds: float,
    *,
    rate: float = 0.0,
    concurrency: int = 0,
    max_in_flight: int = 10**6,
    requests: int = 0,
    stop_after: float | None = None,
) -> Phase:
    chunks: list[bytes] = []
    arrivals = Arrivals(kind, rate=rate, concurrency=concurrency)
    share = WorkerShare(arrivals, seconds, 0.0, 1, 0, 1, max_in_flight, requests)

    async def run() -> None:
        player = Player(itertools.repeat((0, 0.0, 0)), chunks.append)
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, player.stop)
        await player.play(client, [REQUEST], share)

    on_virtual_clock(run())
    return Phase(
        label=kind, url="", arrivals=kind, rate=rate, concurrency=concurrency, started=0.0,
        begin=0.0, end=seconds, workers=1, records=records_of(chunks),
    )  # fmt: skip


def figures(phase: Phase) -> dict[str, Any]:
    return summary.summarise_phase(phase, Run({}, ("m",), (phase,)))


def waits_less(time: float, rate: float, service: float) -> float:
    """P(wait <= time) of M/D/1 (A. K. Erlang, 1909)."""
    terms = (
        (-rate * (time - k * service)) ** k
        / math.factorial(k)
        * math.exp(rate * (time - k * service))
        for k in range(int(time / service) + 1)
    )
    return (1 - rate * service) * sum(terms)


def sojourn(percentile: float, rate: float, service: float) -> float:
    """Waiting and service of M/D/1 at a percentile, by bisection."""
    low, high = 0.0, 30 * service
    for _ in range(60):
        middle = (low + high) / 2
        if waits_less(middle, rate, service) < percentile / 100:
            low = middle
        else:
            high = middle
    return high + service


@pytest.mark.parametrize("load", [0.6, 0.7])
def test_poisson_arrivals_at_one_server_agree_with_theory(
    on_virtual_clock: Clock, load: float
) -> None:
    service = 0.01
    rate = load / service
    phase = play(on_virtual_clock, OneServer(service), "poisson", 30_000 / rate, rate=rate)
    found = figures(phase)
    for name, percentile in (("p50", 50.0), ("p90", 90.0), ("p99", 99.0)):
        theory = sojourn(percentile, rate, service) * 1e3
        measured = found["latency_ms"][name]
        assert measured["low"] <= theory <= measured["high"], name
        assert measured["value"] == pytest.approx(theory, rel=0.1), name
    assert found["requests_per_second"] == pytest.approx(rate, rel=0.03)
    assert not found["void"]


def test_a_stall_shows_in_p99_and_the_naive_figure_hides_it(on_virtual_clock: Clock) -> None:
    seconds, stall = 30.0, (10.0, 11.0)
    open_loop = figures(
        play(on_virtual_clock, OneServer(0.002, stall), "constant", seconds, rate=100)
    )
    # 1 s of 30 s meets the stall: the last percent of requests waited for most of it.
    assert open_loop["latency_ms"]["p99"]["value"] > 600
    assert open_loop["naive_p99_ms"] < 10
    naive = figures(
        play(on_virtual_clock, OneServer(0.002, stall), "closed", seconds, concurrency=1)
    )
    assert naive["latency_ms"]["p99"]["value"] < 10


def test_open_loop_sends_on_time_while_the_server_stands_still(on_virtual_clock: Clock) -> None:
    phase = play(on_virtual_clock, OneServer(0.001, (0.0, 5.0)), "constant", 3.0, rate=50)
    assert len(phase.records) == 150
    assert phase.records["late"].max() < 1e-6


def test_closed_loop_keeps_its_callers_busy(on_virtual_clock: Clock) -> None:
    phase = play(on_virtual_clock, OneServer(0.01), "closed", 10.0, concurrency=4)
    assert figures(phase)["requests_per_second"] == pytest.approx(100, rel=0.01)
    assert np.median(phase.records["latency"]) == pytest.approx(0.04, rel=0.01)


def test_closed_loop_ends_after_its_requests(on_virtual_clock: Clock) -> None:
    phase = play(on_virtual_clock, OneServer(0.01), "closed", 10.0, concurrency=3, requests=10)
    assert len(phase.records) == 10


def test_what_may_not_be_open_is_not_sent(on_virtual_clock: Clock) -> None:
    phase = play(
        on_virtual_clock, OneServer(0.0, (0.0, 2.0)), "constant", 1.0, rate=100, max_in_flight=30
    )
    statuses = phase.records["status"].tolist()
    assert statuses.count(OK) == 30
    assert statuses.count(NOT_SENT) == 70
    assert figures(phase)["errors"] == {"NOT_SENT": 70}


@pytest.mark.parametrize("kind", ["constant", "closed"])
def test_stopping_early_keeps_what_was_measured(on_virtual_clock: Clock, kind: Kind) -> None:
    phase = play(
        on_virtual_clock,
        OneServer(0.01, (2.0, 60.0)),
        kind,
        100.0,
        rate=50 if kind == "constant" else 0,
        concurrency=2 if kind == "closed" else 0,
        stop_after=2.5,
    )
    statuses = phase.records["status"].tolist()
    assert statuses.count(OK) >= 90
    assert statuses.count(UNANSWERED) >= 1
    assert phase.records["due"].max() <= 2.52
    assert figures(phase)["errors"] == {}


@pytest.mark.parametrize("stop_after", [None, 2.0])
def test_a_phase_without_a_request_lasts_its_time_or_until_it_is_stopped(
    on_virtual_clock: Clock, stop_after: float | None
) -> None:
    async def timed() -> float:
        clock = asyncio.get_running_loop().time
        player = Player(itertools.repeat((0, 0.0, 0)), lambda record: None)
        if stop_after is not None:
            asyncio.get_running_loop().call_later(stop_after, player.stop)
        share = WorkerShare(Arrivals("replay", times=(60.0,)), 5.0, 0.0, 1, 0, 1, 1)
        await player.play(OneServer(0.01), [REQUEST], share)
        return clock()

    assert on_virtual_clock(timed()) == pytest.approx(stop_after or 5.0)


@pytest.mark.parametrize(
    ("share", "fewest", "most"), [(0.0, 0, 0), (0.25, 60, 140), (1.0, 400, 400)]
)
def test_a_share_of_the_requests_has_a_trace_each(
    on_virtual_clock: Clock, share: float, fewest: int, most: int
) -> None:
    sent: list[str] = []

    class Server(OneServer):
        async def call(self, request: Request, deadline: float, priority: int) -> Outcome:
            sent.append(request.traceparent)
            return await super().call(request, deadline, priority)

    async def run() -> None:
        player = Player(itertools.repeat((0, 0.0, 0)), lambda record: None, share)
        played = WorkerShare(Arrivals("closed", concurrency=1), 1e6, 0.0, 1, 0, 1, 1, 400)
        await player.play(Server(0.01), [REQUEST], played)

    on_virtual_clock(run())
    traced = [parent for parent in sent if parent]
    assert len(sent) == 400
    assert fewest <= len(traced) <= most
    assert len(set(traced)) == len(traced)
    assert all(re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", parent) for parent in traced)
