"""Measures a server under load, or a ceiling, and the work of other processes meanwhile."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.serving.speed.rounds import Measurement
from loadtest.measurement.server_process import local_server, usage

# Share of the calls to an echo that it has to answer, at least.
_KEPT_UP = 0.95
# Seconds for an answer: more than 32 callers wait at a server that needs 5 seconds an answer.
_PATIENCE = "300s"
# Seconds of calls to an echo: more than a ceiling takes, after which the calls are ended.
_UNTIL_ENDED = 3600.0
# Seconds for the load tester to report after the signal to end.
_REPORT_SECONDS = 60.0


def _busy() -> float:
    """Seconds that the machine's cores have been busy, or taken by its host, so far."""
    first = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, first[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


class Watch:
    """Measures the share of the cores that other processes take, from its creation to `share`."""

    def __init__(self, server: int | None) -> None:
        self._server = server
        self._begin = time.monotonic()
        self._busy = _busy() - self._ours()

    def _ours(self) -> float:
        server = usage(self._server)[0] if self._server else 0.0
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return server + time.process_time() + children.ru_utime + children.ru_stime

    def share(self) -> float:
        """The share so far, from 0 to 1."""
        wall = time.monotonic() - self._begin
        cores = os.cpu_count() or 1
        return max(0.0, (_busy() - self._ours() - self._busy) / (wall * cores))


def _read(command: Sequence[str], output: str, errors: str) -> Any:
    """The JSON that a command printed. Raises RuntimeError, with its errors, where it has none."""
    try:
        return json.loads(output)
    except ValueError as error:
        raise RuntimeError(f"{' '.join(command[2:])}: {errors.strip()[-2000:]}") from error


def json_of(module: str, *arguments: str) -> Any:
    """The document that a module of the benchmarks prints. Raises RuntimeError, with its errors."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return _read(command, done.stdout, done.stderr)


def _load_command(url: str, model: str, seconds: float, *flags: str) -> list[str]:
    return [
        sys.executable, "-m", "convserve", "loadtest", "run", "--url", url, "--model", model,
        "--json", "--duration", f"{seconds:.3f}s", "--timeout", _PATIENCE, *flags,
    ]  # fmt: skip


def _phase(command: Sequence[str], output: str, errors: str) -> Any:
    """The phase that the load tester printed. Raises RuntimeError where calls failed."""
    phase = _read(command, output, errors)["phases"][0]
    if phase["errors"]:
        raise RuntimeError(f"{phase['url']}: {phase['errors']}")
    return phase


def phase_of(url: str, model: str, seconds: float, *flags: str) -> tuple[Any, float]:
    """The phase of `convserve loadtest run`, as its JSON has it, and the share of the cores that
    other processes took meanwhile. Raises RuntimeError where calls fail."""
    watch = Watch(local_server(url))
    command = _load_command(url, model, seconds, *flags)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return _phase(command, done.stdout, done.stderr), watch.share()


def load(url: str, model: str, concurrency: int, seconds: float, *flags: str) -> Measurement:
    """`convserve loadtest run` in a closed loop. Raises RuntimeError where calls fail."""
    phase, others = phase_of(url, model, seconds, "--concurrency", str(concurrency), *flags)
    rate = phase["requests_per_second"]
    return Measurement(
        answers=round(rate * phase["seconds"]),
        rate=rate,
        p50=percentile(phase, "p50"),
        p99=percentile(phase, "p99"),
        cpu=each(phase["server"].get("cpu", math.nan), rate),
        generator=phase["generator"]["cpu"] / (os.cpu_count() or 1),
        others=others,
    )


def percentile(phase: Any, name: str) -> float:
    """A percentile of a phase, ms; nan where nothing was answered."""
    found = phase["latency_ms"].get(name)
    return found["value"] if found else math.nan


def each(total: float, count: float) -> float:
    """The share of one; nan of none."""
    return total / count if count else math.nan


def client(url: str, model: str, side: int, seconds: float) -> Measurement:
    """Our own client's default for many images."""
    watch = Watch(local_server(url))
    found = json_of("benchmarks.serving.speed.client", url, model, str(side), str(seconds))
    cores = os.cpu_count() or 1
    return Measurement(
        answers=found["requests"],
        rate=found["requests"] / found["seconds"],
        p50=math.nan,
        p99=math.nan,
        cpu=each(found["server_cpu"], found["requests"]),
        generator=found["client_cpu"] / found["seconds"] / cores,
        others=watch.share(),
    )


def floor(url: str, rate: float, calls: Sequence[str], *flags: str) -> Measurement:
    """The ceiling while an echo at `url` answers `rate` of the same `calls` a second, as if the
    server's front cost no more than an echo. Its CPU time is that of both."""
    command = _load_command(url, "echo", _UNTIL_ENDED, "--rate", str(rate), *calls)
    echoed = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        # The ceiling's process starts, loads and warms up first.
        bare = ceiling(*flags)
        echoed.send_signal(signal.SIGINT)
        phase = _phase(command, *echoed.communicate(timeout=_REPORT_SECONDS))
    finally:
        echoed.kill()
        echoed.wait()
    answered = phase["requests_per_second"]
    # Arrivals are random, so their number in a short time differs from that of `rate`.
    sent = phase["requests"] / phase["seconds"]
    if not answered or answered < _KEPT_UP * sent:
        raise RuntimeError(f"the echo answered {answered:.0f} calls a second of {sent:.0f}")
    cpu = bare.cpu + each(phase["server"].get("cpu", math.nan), answered)
    generator = phase["generator"]["cpu"] / (os.cpu_count() or 1)
    # Otherwise the echo and its calls would count as other processes.
    return replace(bare, cpu=cpu, generator=generator, others=math.nan)


def ceiling(*flags: str) -> Measurement:
    """The same engine without a server; its p50 is that of single images."""
    watch = Watch(None)
    found = json_of("benchmarks.serving.speed.ceiling", *flags)
    return Measurement(
        answers=found["images"],
        rate=found["images"] / found["seconds"],
        p50=found["single_ms"],
        p99=math.nan,
        cpu=found["cpu"] / found["images"],
        generator=0.0,
        others=watch.share(),
    )
