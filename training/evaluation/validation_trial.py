"""The gate tried on validation images, while the network can still be changed.

Choices are made by measurements on these images: the test split stays unseen until `verify`.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.base.evaluation import Estimate
from serving.base.machine.cpu import core_count
from serving.base.task import IMAGE_INPUT, Measure
from serving.engines import EngineOptions, load_engine
from serving.repository.manifest import Gate
from training.data.samples import ArraySamples, ChosenSamples, Samples
from training.evaluation.accuracy import accuracy_of, agreement_of, chance_of, drop_of
from training.evaluation.gate import judge
from training.evaluation.network_answers import Answers, Run, answers_of
from training.fitting.build import Build, Network
from training.models.export.deployed import output_specs, run_deployed
from training.models.export.to_onnx import CHECK_ENGINE
from training.recipes.tasks import MEASURE_TITLES

# Bytes of images that a trial keeps decoded. More spares the files of a large data set being
# decoded for each network tried; less spares memory. 1,700 images of 224x224 fit.
_KEPT_BYTES = 1 << 28
# Share by which validation may be more accurate than the test's interval tells; two standard errors
# of the validation images are added.
_ALIKE = 0.03


@dataclass(frozen=True)
class Comparison:
    """Accuracy, how much it is below the reference's, and the share of equal answers."""

    accuracy: Estimate
    drop: Estimate
    agreement: float


class Trial:
    """Answers to at most `images` images, spread evenly over the validation split, or over another
    where nothing is chosen by them."""

    def __init__(self, current: Build, images: int, samples: Samples | None = None) -> None:
        self._current = current
        self.samples = spread(current.data.val if samples is None else samples, images)
        self._measure = current.recipe.measure
        self._names = tuple(
            spec.name for spec in output_specs(current.recipe.task, current.channels, current.size)
        )

    def network(self, network: Network) -> Answers:
        """The answers of a network in FP32: in torch, or those of the file that it came as."""
        served = self._current.served(network)
        return self._answers(lambda images: run_deployed(served, self._names, images))

    def file(self, path: Path, precision: str, engine: str = CHECK_ENGINE) -> Answers:
        """The answers of a file in an engine. Raises EngineUnavailable and EngineError."""
        options = EngineOptions(precision=precision, threads=core_count(), max_batch_size=32)
        loaded = load_engine(engine, path, options)
        try:
            return self._answers(
                lambda images: loaded.infer({IMAGE_INPUT: np.ascontiguousarray(images)})
            )
        finally:
            loaded.close()

    def compare(self, reference: Answers, found: Answers) -> Comparison:
        """`found` beside a reference's answers to the same images."""
        return Comparison(
            accuracy_of(self._measure, found),
            drop_of(self._measure, reference, found),
            agreement_of(reference, found),
        )

    def judge(self, reference: Answers, found: Answers) -> Gate:
        """The verdict of the recipe's gate, were these images the test split."""
        compared = self.compare(reference, found)
        return judge(
            self._current.recipe.verify,
            self._measure,
            compared.accuracy,
            compared.drop,
            compared.agreement,
            chance_of(self._measure, reference),
        )

    def _answers(self, run: Run) -> Answers:
        data = self._current.data
        return answers_of(
            run,
            self.samples,
            self._current.recipe.task,
            len(data.classes),
            data.ignore_index,
            self._current.folder,
        )


def spread(samples: Samples, count: int) -> Samples:
    """`count` of the samples, evenly spread, in memory where they take at most _KEPT_BYTES; all of
    them where there are fewer."""
    if len(samples) <= count:
        return samples
    rows = np.linspace(0, len(samples) - 1, count).astype(np.intp)
    chosen = ChosenSamples(samples, rows)
    one = sum(part.nbytes for part in chosen.batch([0]))
    return ArraySamples(*chosen.batch(range(count))) if count * one <= _KEPT_BYTES else chosen


def doubt_about(measure: Measure, seen: float, images: int, found: Estimate) -> str:
    """Why choices by validation images may mislead, where a trained network knows them far better
    than test images; empty where it does not.

    seen: its accuracy on `images` validation images.
    found: that on test images.
    """
    error = math.sqrt(found.value * (1 - found.value) / images)
    if seen <= found.high + _ALIKE + 2 * error:
        return ""
    return (
        f"{MEASURE_TITLES[measure]} of the trained network is {100 * seen:.2f} % on {images:,} "
        f"validation images, and {100 * found.value:.2f} % on test images. Weights that training "
        "began with may have seen them, or they resemble training images: a drop measured on them "
        "seems larger than it is. Put images into val/ that are new to both"
    )
