"""CPU cost of a request with one and with several workers of the load generator.

    python -m benchmarks.loadtest.workers [--rate 300] [--seconds 4] [--rounds 5]

Unary requests to a server that does nothing. 1, 2 and 4 workers, in turn, send `rate` requests a
second each: where they share nothing, a request costs the same CPU time with four as with one. Then
each number of workers sends as fast as it can, in a closed loop of the same callers; that rate also
depends on the server and the number of cores.
"""

import argparse
import statistics
import sys

from benchmarks.echo import echo_server
from benchmarks.loadtest.generator_cost import MESSAGE
from loadtest.generator.arrivals import Arrivals
from loadtest.generator.fleet import Fleet, Interrupt
from loadtest.generator.worker import Workload
from loadtest.payloads.draws import ALWAYS_ZERO
from loadtest.results import OK, records_of
from loadtest.wire.messages import Request

WORKERS = (1, 2, 4)
CALLERS = 16
# CPU time of a request as a multiple of that with one worker, at most.
MOST = 1.2


class Turn:
    """One phase of one fleet: CPU microseconds for each request, answers a second, and p99 of the
    delay of sends (milliseconds)."""

    def __init__(self, fleet: Fleet, url: str, arrivals: Arrivals, seconds: float) -> None:
        played = fleet.play(
            url,
            arrivals,
            seconds,
            seed=0,
            max_in_flight=10_000,
            requests=0,
            interrupt=Interrupt(),
            watch=lambda _seconds, _chunks: False,
        )
        records = records_of(played.chunks)
        if (records["status"] != OK).any():
            sys.exit("not every request was answered: is the rate too high for this machine?")
        self.cost = played.cpu / len(records) * 1e6
        self.rate = len(records) / played.elapsed
        self.late = sorted(records["late"])[int(0.99 * len(records))] * 1e3


def main() -> None:
    """Prints a line for each number of workers; exit status 1 where more workers cost too much."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=300.0, help="of each worker")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with echo_server() as url:
        found = measure(url, arguments.rate, arguments.seconds, arguments.rounds)
    missed = False
    for workers, (paced, fast) in found.items():
        ratio = statistics.median(
            turn.cost / one.cost for turn, one in zip(paced, found[1][0], strict=True)
        )
        missed |= ratio > MOST
        cost = statistics.median(turn.cost for turn in paced)
        late = statistics.median(turn.late for turn in paced)
        print(
            f"{workers} workers: {cost:.0f} us CPU a request at {workers * arguments.rate:.0f}/s "
            f"({ratio:.2f} x one worker, at most {MOST}), sent late by p99 {late:.2f} ms; as fast "
            f"as it goes {statistics.median(turn.rate for turn in fast):,.0f}/s with "
            f"{statistics.median(turn.cost for turn in fast):.0f} us"
        )
    sys.exit(int(missed))


def measure(
    url: str, rate: float, seconds: float, rounds: int
) -> dict[int, tuple[list[Turn], list[Turn]]]:
    """Turns at the given rate and at full speed, by number of workers, which alternate."""
    load = Workload(
        requests={url: [Request(0, "Classify", MESSAGE.SerializeToString(), 1)]},
        groups=((1, 1.0),),
        deadlines=ALWAYS_ZERO,
        priorities=ALWAYS_ZERO,
        seed=0,
        timeout=30.0,
        streams=0,
    )
    fast = Arrivals("closed", concurrency=CALLERS)
    found: dict[int, tuple[list[Turn], list[Turn]]] = {number: ([], []) for number in WORKERS}
    for _ in range(rounds):
        for workers, (at_rate, at_most) in found.items():
            with Fleet(load, workers) as fleet:
                Turn(fleet, url, fast, 0.5)  # connects and warms up
                paced = Arrivals("poisson", rate=workers * rate)
                at_rate.append(Turn(fleet, url, paced, seconds))
                at_most.append(Turn(fleet, url, fast, seconds))
    return found


if __name__ == "__main__":
    main()
