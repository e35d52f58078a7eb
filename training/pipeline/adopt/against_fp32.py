"""Judges variants by the answers of the FP32 file, where nothing is labelled."""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from serving.base.evaluation import Estimate, accuracy, answer_distance
from serving.base.task import Task
from serving.base.tensor import Array
from serving.engines import Engine
from serving.images.answers import embeddings_of, mask_of, scores_of
from serving.repository.interface import TaskOutput
from serving.repository.manifest import Gate
from serving.repository.samples import Samples
from training.evaluation.gate import Verdict
from training.pipeline.adopt.items import Inputs, Items, calls
from training.pipeline.adopt.judging import Bounds
from training.pipeline.adopt.served import ServedModel

# Rows that are run together. More are hardly faster and hold more answers.
_ROWS = 8
# Bytes of FP32's answers that are kept; others are computed again for each variant.
_KEPT_BYTES = 256 << 20
# The least norm that an answer counts with.
_NOTHING = 1e-12


class AgainstFp32:
    """The share of items whose answer is FP32's; a Yardstick.

    reference: an engine that runs the FP32 file.
    """

    measure = "agreement"

    def __init__(
        self,
        reference: Engine,
        model: ServedModel,
        items: Items,
        samples: Samples,
        bounds: Bounds,
        task: Task | None,
        answer: TaskOutput | None,
    ) -> None:
        self._reference = reference
        self._model = model
        self._items = items
        self._bounds = bounds
        self._task = task
        self._answer = answer
        self._kept: dict[int, dict[str, Array]] = {}
        # The root mean square of the norms of FP32's answers to the samples, by output.
        self._sizes = {
            name: float(np.linalg.norm(array.astype(np.float64))) / math.sqrt(len(samples))
            for name, array in samples.answers.items()
        }

    def judge(self, engine: Engine) -> Verdict:
        """Measures the variant in `engine`. Raises EngineError."""
        return self._verdict(*self._measured(engine))

    def mean(self, engine: Engine) -> float:
        """The mean distance of its answers from FP32's; one that is not finite counts as 1. Raises
        EngineError."""
        _, distances = self._measured(engine)
        return float(_counted(distances).mean())

    def _measured(self, engine: Engine) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        agreeing: list[bool] = []
        distances: list[float] = []
        rows = min(_ROWS, max(1, self._model.config.max_batch_size))
        for number, call in enumerate(
            calls(self._items, range(len(self._items)), self._model, rows)
        ):
            wanted, found = self._wanted(number, call), engine.infer(call)
            for one, other in zip(self._each(wanted), self._each(found), strict=True):
                distance = max(
                    self._distance(spec.name, one[spec.name], other[spec.name])
                    for spec in self._model.outputs
                )
                distances.append(distance)
                agreeing.append(self._agree(one, other, distance))
        return np.array(agreeing), np.array(distances)

    def _distance(self, name: str, one: Array, other: Array) -> float:
        """`answer_distance`, but that an answer of FP32's that is nearly nothing, as a map without
        any object, counts as large as those to the samples are."""
        found = answer_distance(one, other)
        if one.dtype.kind in "biu" or not math.isfinite(found):
            return found
        size = float(np.linalg.norm(one.astype(np.float64)))
        return found * size / max(size, self._sizes[name], _NOTHING)

    def _wanted(self, number: int, call: Inputs) -> dict[str, Array]:
        """FP32's answers to a call, which is the same for each variant."""
        if number in self._kept:
            return self._kept[number]
        found = self._reference.infer(call)
        held = sum(array.nbytes for kept in self._kept.values() for array in kept.values())
        if held + sum(array.nbytes for array in found.values()) <= _KEPT_BYTES:
            self._kept[number] = found
        return found

    def _each(self, outputs: Mapping[str, Array]) -> list[Mapping[str, Array]]:
        if not self._model.batches:
            return [outputs]
        count = len(next(iter(outputs.values())))
        return [{name: array[i] for name, array in outputs.items()} for i in range(count)]

    def _agree(self, one: Inputs, other: Inputs, distance: float) -> bool:
        answer, bound = self._answer, self._bounds.max_distance
        if answer is None or one[answer.output].shape != other[answer.output].shape:
            return distance <= bound
        rows = [{answer.output: item[answer.output][np.newaxis]} for item in (one, other)]
        if self._task == "classification":
            ours, theirs = (scores_of(row, answer).argmax() for row in rows)
            return bool(ours == theirs)
        if self._task == "segmentation":
            differ = mask_of(one, answer)[0] != mask_of(other, answer)[0]
            return float(differ.mean()) <= bound
        points = (embeddings_of(row, answer) for row in rows)
        return answer_distance(*points) <= bound

    def _verdict(self, agreeing: NDArray[np.bool_], distances: NDArray[np.float64]) -> Verdict:
        share, least = accuracy(agreeing), self._bounds.min_agreement
        strange = int((~np.isfinite(distances)).sum())
        distances = _counted(distances)
        reasons = [
            f"{share.n} answers, of which {100 * share.value:.2f} "
            f"[{100 * share.low:.2f}, {100 * share.high:.2f}] % are FP32's ({self._same()}), "
            f"wanted {100 * least:.2f} %",
            f"distance {distances.mean():.2g} on average, {distances.max():.2g} at most",
        ]
        if strange:
            reasons.append(f"{strange} are not finite, or of another shape, and count as 1 away")
        if share.n * (1 - least) < 3:
            needed = f"{math.ceil(3 / (1 - least))}" if least < 1 else "any number"
            reasons.append(f"too few to prove the bound ({needed} needed)")
        return Verdict(
            accuracy=share,
            drop=Estimate(value=1 - share.value, low=1 - share.high, high=1 - share.low, n=share.n),
            agreement=share.value,
            gate=Gate(passed=share.value >= least, reason="; ".join(reasons)),
            measures={"mean distance": float(distances.mean())},
            class_drops={},
        )

    def _same(self) -> str:
        if self._task == "classification":
            return "the same class"
        what = "of its pixels" if self._task == "segmentation" else "away"
        return f"at most {self._bounds.max_distance:g} {what}"


def _counted(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """With 1 for answers that are not finite, or of another shape."""
    return np.where(np.isfinite(distances), distances, 1.0)
