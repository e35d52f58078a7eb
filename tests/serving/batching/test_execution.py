import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest

from serving.base.errors import EngineError
from serving.base.tensor import Array, TensorSpec
from serving.batching.execution import BatchExecution
from tests.serving.batching.fake_engine import FakeEngine

SIDE = 256


class FirstPixels:
    """Takes images UINT8 [rows, SIDE, SIDE, 3] and gives back the first value of each, or of fewer
    than it got."""

    inputs = (TensorSpec("image", "UINT8", (-1, SIDE, SIDE, 3)),)

    def __init__(self, lost: int = 0) -> None:
        self.lost = lost
        self.buffers: list[Array] = []

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        self.buffers.append(np.empty(shape, spec.dtype))
        return self.buffers[-1]

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert np.shares_memory(inputs["image"], self.buffers[0])
        return {"first": inputs["image"][self.lost :, 0, 0, 0].copy()}


def part(*values: int) -> dict[str, Array]:
    """Images of one value each."""
    images = np.empty((len(values), SIDE, SIDE, 3), np.uint8)
    images[:] = np.reshape(values, (-1, 1, 1, 1))
    return {"image": images}


def test_rows_of_all_parts_follow_one_another() -> None:
    execution = BatchExecution(FirstPixels(), max_batch_size=8, instances=1)
    assert execution.run([part(1), part(2, 3), part(4)]).outputs["first"].tolist() == [1, 2, 3, 4]
    assert execution.run([part(5)]).outputs["first"].tolist() == [5]


def test_images_are_copied_into_the_preallocated_batch_and_nowhere_else() -> None:
    engine = FirstPixels()
    execution = BatchExecution(engine, max_batch_size=8, instances=1)
    # Pixels that the crop of a larger image leaves do not lie side by side.
    crop = np.zeros((1, SIDE + 9, SIDE + 9, 3), np.uint8)[:, 4:-5, 4:-5]
    parts = [part(1), {"image": crop}, part(2, 3), part(4)]
    tracemalloc.start()
    try:
        execution.run(parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(engine.buffers) == 1
    assert peak < crop.nbytes


def test_engine_that_loses_rows_fails_the_batch() -> None:
    execution = BatchExecution(FirstPixels(lost=1), max_batch_size=8, instances=1)
    with pytest.raises(EngineError, match=r"'first' of 3 rows came back with shape \(2,\)"):
        execution.run([part(1, 2), part(3)])


class Picky(FakeEngine):
    """One that refuses numbers that do not lie at a multiple of their size."""

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert all(array.flags.aligned for array in inputs.values())
        return super().infer(inputs)


@pytest.mark.parametrize("offset", range(4))
def test_engine_reads_numbers_where_they_may_lie(offset: int) -> None:
    message = bytes(offset) + np.arange(6, dtype=np.float32).tobytes()
    view = np.frombuffer(memoryview(message)[offset:], np.float32).reshape(3, 2)
    executed = BatchExecution(Picky(), 0, 1).run([{"x": view}])
    assert executed.outputs["y"].tolist() == (view * 2).tolist()
