"""Measures one subject in one round: its highest rate, and its latency at a share of that."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.job.data import Images
from benchmarks.job.masks import MaskCheck
from benchmarks.job.works import Load
from benchmarks.serving.speed.measure import each, percentile, phase_of
from benchmarks.serving.speed.rounds import Measurement
from serving.base.evaluation import Estimate, accuracy

# Share of its highest rate at which a subject's latency is measured: what a team with some reserve
# runs it at. Higher shows queues, lower batches of one.
LATENCY_LOAD = 0.7


@dataclass(frozen=True)
class Figures(Measurement):
    """A measurement of images: answers, rate and cpu are those of images, p50 and p99 those of
    calls at LATENCY_LOAD.

    accuracy: of the answers under load, over the distinct images that were asked for.
    """

    accuracy: Estimate


@dataclass(frozen=True)
class Asked:
    """How a subject is asked.

    check: compares masks beside the load; None for labels, which the load tester compares.
    """

    url: str
    model: str
    load: Load
    images: Images
    check: Callable[[], MaskCheck] | None

    def measure(self, seconds: float) -> Figures:
        """Measures for `seconds` in a closed loop, and for as long at a share of the rate. Raises
        RuntimeError where calls fail."""
        load = self.load
        kind = "--images" if self.images.masks else "--labelled"
        flags = (kind, str(self.images.load), "--rows", str(load.rows))
        with self._beside() as check:
            closed = ("--concurrency", str(load.callers), *flags)
            full, others = phase_of(self.url, self.model, seconds, *closed)
        beside = each(check.images, check.seconds) if check else 0.0
        rate = full["images_per_second"] + beside
        calls = LATENCY_LOAD * rate / load.rows
        if not calls:
            raise RuntimeError(f"{self.url}: no answer in {seconds:.0f} s")
        part, later = phase_of(self.url, self.model, seconds, "--rate", f"{calls:.3f}", *flags)
        return Figures(
            answers=round(rate * full["seconds"]),
            rate=rate,
            p50=percentile(part, "p50"),
            p99=percentile(part, "p99"),
            cpu=each(full["server"].get("cpu", math.nan), rate),
            generator=full["generator"]["cpu"] / (os.cpu_count() or 1),
            others=max(others, later),
            accuracy=check.accuracy() if check else right_of((full, part), self.images.load),
        )

    @contextlib.contextmanager
    def _beside(self) -> Iterator[MaskCheck | None]:
        if self.check is None:
            yield None
            return
        with self.check() as check:
            yield check


def right_of(phases: tuple[Any, ...], folder: Path) -> Estimate:
    """Share of right labels in the answers. Each image of the folder counts once in the interval:
    the same answer a second time proves nothing more. Raises RuntimeError where none was
    compared."""
    found = [phase["accuracy"] for phase in phases if "accuracy" in phase]
    checked = sum(one["checked"] for one in found)
    if not checked:
        raise RuntimeError(f"no answer was compared with the labels of {folder}")
    right = sum(one["right"] for one in found)
    n = min(checked, sum(1 for path in folder.rglob("*") if path.is_file()))
    return accuracy(np.arange(n) < round(n * right / checked))
