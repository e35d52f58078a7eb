"""One measurement of a server under load, or of a ceiling, and what else the machine did."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from loadtest.measurement.server_process import local_server, usage

# Above this share of the machine taken by others, a measurement says little.
VOID_SHARE = 0.05
# More than the ceiling takes before it measures.
_START_SECONDS = 25.0
# Of the calls that an echo was sent.
_KEPT_UP = 0.95


@dataclass(frozen=True)
class Measurement:
    """rate: answers a second. p50 and p99: milliseconds. cpu: server's seconds an answer.
    generator, others: shares of all cores that the load generator and other processes took. A
    figure that a subject does not have is nan."""

    rate: float
    p50: float
    p99: float
    cpu: float
    generator: float
    others: float

    @property
    def void(self) -> bool:
        """Whether others took so much that it must not count."""
        return self.others > VOID_SHARE


def _busy() -> float:
    """Seconds that the machine's cores have been busy, or were taken by its host, so far."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Watch:
    """What others take of the cores between its making and `share`."""

    def __init__(self, server: int | None) -> None:
        self._server = server
        self._begin = time.monotonic()
        self._busy = _busy() - self._ours()

    def _ours(self) -> float:
        server = usage(self._server)[0] if self._server else 0.0
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return server + time.process_time() + children.ru_utime + children.ru_stime

    def share(self) -> float:
        wall = time.monotonic() - self._begin
        cores = os.cpu_count() or 1
        return max(0.0, (_busy() - self._ours() - self._busy) / (wall * cores))


def _json_of(module: str, *arguments: str) -> Any:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def _loaded(url: str, model: str, seconds: float, *flags: str) -> Any:
    document = _json_of(
        "convserve", "loadtest", "run", "--url", url, "--model", model, "--json",
        "--duration", f"{seconds}s", *flags,
    )  # fmt: skip
    phase = document["phases"][0]
    if phase["errors"]:
        raise RuntimeError(f"{model} at {url}: {phase['errors']}")
    return phase


def load(url: str, model: str, concurrency: int, seconds: float, *flags: str) -> Measurement:
    """`convserve loadtest run` in a closed loop. Raises RuntimeError where calls fail."""
    watch = Watch(local_server(url))
    phase = _loaded(url, model, seconds, "--concurrency", str(concurrency), *flags)
    others = watch.share()
    rate = phase["requests_per_second"]
    return Measurement(
        rate=rate,
        p50=phase["latency_ms"]["p50"]["value"],
        p99=phase["latency_ms"]["p99"]["value"],
        cpu=phase["server"]["cpu"] / rate,
        generator=phase["generator"]["cpu"] / (os.cpu_count() or 1),
        others=others,
    )


def client(url: str, model: str, side: int, seconds: float) -> Measurement:
    """Our own client's default for many images."""
    watch = Watch(local_server(url))
    found = _json_of("benchmarks.serving.speed.client", url, model, str(side), str(seconds))
    cores = os.cpu_count() or 1
    return Measurement(
        rate=found["requests"] / found["seconds"],
        p50=float("nan"),
        p99=float("nan"),
        cpu=found["server_cpu"] / found["requests"],
        generator=found["client_cpu"] / found["seconds"] / cores,
        others=watch.share(),
    )


def floor(url: str, rate: float, calls: Sequence[str], seconds: float, *flags: str) -> Measurement:
    """The ceiling while an echo at `url` answers `rate` of the same `calls` a second: what a front
    that costs no more than an echo would come to. Its CPU is that of both."""
    with ThreadPoolExecutor(1) as beside:
        # The ceiling's process starts, loads and warms up first.
        echoed = beside.submit(
            _loaded, url, "echo", seconds + _START_SECONDS, "--rate", str(rate), *calls
        )
        bare = ceiling(*flags)
        ended_first = echoed.done()
        phase = echoed.result()
        if ended_first:
            raise RuntimeError("the calls of the echo ended before the ceiling was measured")
    answered = phase["requests_per_second"]
    if answered < _KEPT_UP * rate:
        raise RuntimeError(f"the echo answered {answered:.0f} calls a second of {rate:.0f}")
    cpu = bare.cpu + phase["server"]["cpu"] / answered
    generator = phase["generator"]["cpu"] / (os.cpu_count() or 1)
    # What the ceiling takes for others' work are the echo and its calls.
    return replace(bare, cpu=cpu, generator=generator, others=float("nan"))


def ceiling(*flags: str) -> Measurement:
    """The same engine without a server; its p50 is that of single images."""
    watch = Watch(None)
    found = _json_of("benchmarks.serving.speed.ceiling", *flags)
    return Measurement(
        rate=found["images"] / found["seconds"],
        p50=found["single_ms"],
        p99=float("nan"),
        cpu=found["cpu"] / found["images"],
        generator=0.0,
        others=watch.share(),
    )
