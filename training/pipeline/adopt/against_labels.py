"""Judges variants by the labels of images, as the verify stage of a build does."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from serving.base.task import TASKS, Task, measure_of
from serving.base.tensor import Array
from serving.engines import Engine
from serving.engines.engine import infer_each, infer_in_parts
from serving.images.answers import embeddings_of, mask_of, scores_of
from serving.images.tensor import ToTensor
from serving.repository.interface import TaskOutput
from training.data.readers import Pixels
from training.data.samples import Dataset
from training.evaluation.gate import Verdict, verdict
from training.evaluation.network_answers import Answers, answers_of
from training.pipeline.adopt.judging import Bounds
from training.pipeline.adopt.served import ServedModel
from training.recipes.deliver import Verify

# Least score whose logarithm is taken.
_LEAST = 1e-30


class AgainstLabels:
    """The accuracy on the test images of a data set, beside FP32's; a Yardstick.

    reference: an engine that runs the FP32 file.
    folder: gets files that are gone with the measurement.
    """

    def __init__(
        self,
        reference: Engine,
        model: ServedModel,
        data: Dataset,
        bounds: Bounds,
        task: Task,
        answer: TaskOutput,
        to_tensor: ToTensor,
        folder: Path,
    ) -> None:
        self._reference = reference
        self._model = model
        self._data = data
        self._bounds = bounds
        self._task: Task = task
        self._answer = answer
        self._to_tensor = to_tensor
        self._folder = folder
        self.measure = measure_of(task, binary=False)

    def judge(self, engine: Engine) -> Verdict:
        """Measures the variant in `engine`. Raises EngineError."""
        config = Verify(
            max_drop=self._bounds.max_drop,
            min_agreement=self._bounds.min_agreement,
            min_accuracy=self._bounds.min_accuracy,
        )
        classes, found = self._data.classes, self._answers(engine)
        return verdict(config, self.measure, classes, self._fp32, found, "--min-accuracy 0")

    @cached_property
    def _fp32(self) -> Answers:
        return self._answers(self._reference)

    def _answers(self, engine: Engine) -> Answers:
        data, name = self._data, self._to_tensor.name

        def run(images: Pixels) -> dict[str, Array]:
            tensors = [self._to_tensor(image) for image in images]
            if not self._model.batches:
                return self._in_own_form(infer_each(engine, {name: np.stack(tensors)}))
            rows = self._model.config.max_batch_size
            return self._in_own_form(infer_in_parts(engine, {name: np.concatenate(tensors)}, rows))

        return answers_of(
            run, data.test, self._task, len(data.classes), data.ignore_index, self._folder
        )

    def _in_own_form(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs, [n, ...], as those of a network that a build published."""
        answer = self._answer
        if self._task == "classification":
            scores = scores_of(outputs, answer)
            return {TASKS["classification"].output: np.log(np.maximum(scores, _LEAST))}
        if self._task == "embedding":
            return {TASKS["embedding"].output: embeddings_of(outputs, answer)}
        rows = [{answer.output: row} for row in outputs[answer.output]]
        masks, sure = zip(*(mask_of(row, answer) for row in rows), strict=True)
        return {"mask": np.stack(masks), "confidence": np.stack(sure)}
