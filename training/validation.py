"""The gate tried on validation images, while the network can still be changed.

Whatever is chosen by a measurement is measured here: the test split stays unseen until `verify`.
"""

from pathlib import Path

import numpy as np
from torch import nn

from serving.engines import EngineOptions, load_engine
from serving.engines.measure import core_count
from serving.manifest import IMAGE_INPUT, Gate
from training.data.samples import ArraySamples, Samples
from training.deploy import Deployed, output_specs, run_deployed
from training.export import CHECK_ENGINE
from training.run import Build
from training.verify import Answers, Comparison, Run, answers_of, compare, judge


class Trial:
    """Answers to at most `images` validation images, spread evenly over the split."""

    def __init__(self, current: Build, images: int) -> None:
        self._current = current
        self.samples = spread(current.data.val, images)
        self._names = tuple(
            spec.name
            for spec in output_specs(current.recipe.task, len(current.data.classes), current.size)
        )

    def network(self, network: nn.Module) -> Answers:
        """What a network says in torch, in FP32."""
        deployed: Deployed = self._current.deployed(network)
        return self._answers(lambda images: run_deployed(deployed, self._names, images))

    def file(self, path: Path, precision: str, engine: str = CHECK_ENGINE) -> Answers:
        """What a file says in an engine. Raises EngineUnavailable and EngineError."""
        options = EngineOptions(precision=precision, threads=core_count(), max_batch_size=32)
        loaded = load_engine(engine, path, options)
        try:
            return self._answers(
                lambda images: loaded.infer({IMAGE_INPUT: np.ascontiguousarray(images)})
            )
        finally:
            loaded.close()

    def compare(self, reference: Answers, found: Answers) -> Comparison:
        """See verify.compare."""
        return compare(self._current.recipe.task, reference, found)

    def judge(self, reference: Answers, found: Answers) -> Gate:
        """What the recipe's gate would say if the test split were these images."""
        compared = self.compare(reference, found)
        return judge(
            self._current.recipe.verify, compared.accuracy, compared.drop, compared.agreement
        )

    def _answers(self, run: Run) -> Answers:
        data = self._current.data
        return answers_of(
            run, self.samples, self._current.recipe.task, len(data.classes), data.ignore_index
        )


def spread(samples: Samples, count: int) -> Samples:
    """`count` of the samples, evenly spread, in memory; all of them where there are fewer."""
    if len(samples) <= count:
        return samples
    chosen = np.linspace(0, len(samples) - 1, count).astype(np.intp)
    return ArraySamples(*samples.batch(chosen))
