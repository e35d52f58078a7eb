"""The gate tried on validation images, while the network can still be changed.

Choices are made by measurements on these images. Nothing is chosen by the test split.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.base.evaluation import Estimate
from serving.base.machine.cpu import core_count
from serving.base.task import IMAGE_INPUT
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
# Images of a split that are compared with the other one. More take time, fewer miss small gaps.
_COMPARED = 500
# Share of accuracy by which the intervals of the two splits may lie apart. More misses weights that
# know the validation images, less warns of splits that differ by chance. CIFAR-10's ResNet-56 is
# right on 95.7 % of images that its weights saw, and on 89.4 % of others.
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


def doubt_about(current: Build, network: Network, found: Estimate | None = None) -> str:
    """Why choices by validation images may mislead: the trained network is far more accurate on
    them than on test images. Empty where it is not, and for embeddings, whose accuracy depends on
    the number of people. It may read test images, but nothing is chosen by them.

    found: its accuracy on test images, where it is measured already.
    """
    measure = current.recipe.measure
    if measure == "rank1":
        return ""

    def accuracy(samples: Samples) -> Estimate:
        return accuracy_of(measure, Trial(current, _COMPARED, samples).network(network))

    seen = accuracy(current.data.val)
    found = found or accuracy(current.data.test)
    if seen.low <= found.high + _ALIKE:
        return ""
    return (
        f"{MEASURE_TITLES[measure]} of the trained network is {100 * seen.value:.2f} % on "
        f"{seen.n:,} validation images, and {100 * found.value:.2f} % on test images. Its first "
        "weights may have seen validation images, these may resemble training images, or test "
        "images are harder. A drop on them may seem larger than it is: put images into val/ that "
        "are new to the network"
    )
