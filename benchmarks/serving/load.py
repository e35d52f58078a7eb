"""Runs the load tester for benchmarks, in a process of its own."""

import json
import subprocess
import sys
from typing import Any


def load_command(url: str, model: str, *options: str) -> list[str]:
    """`convserve loadtest run` with random tensors, which prints JSON."""
    command = [sys.executable, "-m", "convserve", "loadtest", "run", "--url", url]
    return [
        *command,
        "--model",
        model,
        "--api",
        "oip",
        "--json",
        "--max-lateness",
        "50ms",
        *options,
    ]


def load(url: str, model: str, *options: str) -> dict[str, Any]:
    """One phase, as the load tester's JSON. Ends the program, with the reason, where it fails."""
    command = load_command(url, model, *options)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if not result.stdout:
        sys.exit(result.stderr)
    phase: dict[str, Any] = json.loads(result.stdout)["phases"][0]
    return phase


def poisson(
    url: str, model: str, rate: float, seconds: float, seed: int, *options: str
) -> dict[str, Any]:
    """A phase of Poisson arrivals, `rate` a second: an open loop."""
    arrivals = ("--arrivals", "poisson", "--rate", f"{rate:.2f}", "--seed", str(seed))
    return load(url, model, *arrivals, "--duration", f"{seconds}s", *options)


def p99(phase: dict[str, Any]) -> float:
    """p99 of the phase's answers, milliseconds."""
    return float(phase["latency_ms"]["p99"]["value"])
