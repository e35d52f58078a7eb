"""The rate of a closed loop, and the budget of time."""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Row = dict[str, Any]

# Reason of a row that was not measured because the budget was used up.
LEFT_OUT = "left out: time"


def remaining(args: argparse.Namespace) -> float:
    """Seconds of the budget that are left."""
    left: float = args.end - time.monotonic()
    return left


def rate(call: Callable[[int], object], callers: int, rows: int, seconds: float) -> float:
    """Images a second of `callers` threads in a closed loop, each call of `rows` images.

    A warm-up of a fifth of `seconds` comes first. Each caller makes at least one call that counts.
    """
    counts = [0] * callers
    begin = time.monotonic() + seconds / 5
    end = begin + seconds

    def caller(index: int) -> None:
        while (now := time.monotonic()) < end or not counts[index]:
            call(index)
            if now >= begin:
                counts[index] += rows

    with ThreadPoolExecutor(callers) as pool:
        for future in [pool.submit(caller, index) for index in range(callers)]:
            future.result()
    return sum(counts) / (time.monotonic() - begin)
