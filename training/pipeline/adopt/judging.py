"""Runs every variant in every engine here, beside the FP32 file as it is served today, and judges
it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from serving.base.errors import EngineError
from serving.base.evaluation import answer_distance
from serving.base.tensor import Array
from serving.engines import Engine
from serving.engines.engine import infer_each, infer_in_parts
from serving.engines.measure import time_batches
from serving.repository.model_config import check_against_engine
from serving.repository.samples import Samples
from training.evaluation.gate import Verdict
from training.evaluation.in_engines import SAMPLES, Measured, measure_in_engines
from training.evaluation.verification import VariantFile, VariantResult
from training.pipeline.adopt.items import Inputs, Items, shapes, stacked
from training.pipeline.adopt.served import ServedModel

# Bytes that the largest array of the samples may take.
_SAMPLE_BYTES = 64 << 20
# Seconds of measuring for each batch size, as in a build.
_LATENCY_SECONDS = 0.5
# The largest batch whose time is measured; the server measures all of its own.
_TIMED_ROWS = 32


@dataclass(frozen=True)
class Bounds:
    """The gate.

    max_drop: largest loss of accuracy on labelled data.
    min_agreement: smallest share of answers that are FP32's.
    max_distance: distance from FP32's answer up to which another is the same: the norm of the
        difference over the norm, which counts as that of a usual answer at least, or the share of
        whole numbers that differ. It judges tensors, embeddings and the share of a mask's pixels; a
        class is the same or another.
    min_accuracy: as in a recipe's `verify`.
    """

    max_drop: float = 0.01
    min_agreement: float = 0.95
    max_distance: float = 0.1
    min_accuracy: float | None = None


class Yardstick(Protocol):
    """Labels, or FP32's answers."""

    @property
    def measure(self) -> str:
        """The accuracy of its verdicts, as a manifest names it."""

    def judge(self, engine: Engine) -> Verdict:
        """Measures the variant in `engine`. Raises EngineError."""


def choose_samples(engine: Engine, model: ServedModel, items: Items) -> Samples:
    """A few items of one shape, spread evenly, with the answers of `engine`, which runs the FP32
    file. Raises EngineError."""
    first = items.item(0)
    answers = _alone(engine, model, first)
    size = max(array.nbytes for array in (*first.values(), *answers.values()))
    count = max(1, min(SAMPLES, len(items), _SAMPLE_BYTES // max(1, size)))
    inputs, found = [], []
    for index in np.linspace(0, len(items) - 1, count).astype(int).tolist():
        item = items.item(index)
        answer = _alone(engine, model, item)
        if shapes(item) == shapes(first) and shapes(answer) == shapes(answers):
            inputs.append(item)
            found.append(answer)
    return Samples(stacked(inputs), stacked(found))


def measure(
    file: VariantFile, model: ServedModel, yardstick: Yardstick, samples: Samples
) -> VariantResult:
    """The evidence of one variant in each engine that can run it here."""

    def measured(engine: Engine) -> Measured:
        check_against_engine(model.config, engine.inputs, engine.outputs, file.path)
        distance = _distance(engine, model, samples)
        verdict = yardstick.judge(engine)
        times = time_batches(engine, _batches(model, samples), _LATENCY_SECONDS)
        return Measured(verdict, distance, times)

    return measure_in_engines(file, max(1, model.config.max_batch_size), "adopt", measured)


def _distance(engine: Engine, model: ServedModel, samples: Samples) -> float:
    """Of the answers to the samples from FP32's, in the output where it is largest."""
    rows = max(1, model.config.max_batch_size)
    answers = (
        infer_in_parts(engine, samples.inputs, rows)
        if model.batches
        else infer_each(engine, samples.inputs)
    )
    distance = max(
        answer_distance(samples.answers[spec.name], answers[spec.name]) for spec in model.outputs
    )
    if not np.isfinite(distance):
        raise EngineError("its answers are not finite, or of other shapes than FP32's")
    return distance


def _batches(model: ServedModel, samples: Samples) -> Iterator[tuple[int, dict[str, Array]]]:
    arrays = samples.inputs.items()
    if not model.batches:
        yield 1, {name: np.asarray(array[0], order="C") for name, array in arrays}
        return
    for size in sorted({1, min(_TIMED_ROWS, model.config.max_batch_size)}):
        yield size, {name: np.resize(array, (size, *array.shape[1:])) for name, array in arrays}


def _alone(engine: Engine, model: ServedModel, item: Inputs) -> Inputs:
    """The outputs of one item, without the batch where the model batches."""
    found = engine.infer(stacked([item]) if model.batches else item)
    return {
        spec.name: found[spec.name][0] if model.batches else found[spec.name]
        for spec in model.outputs
    }
