"""The memory of a graph by the lives of its tensors."""

import pytest
from onnx import TensorProto, helper

from tests.support.foreign import SIDE, classifier
from training.models.files.memory import activation_bytes

FLOAT = 4
LARGEST = 2 * 4 * SIDE * SIDE * FLOAT


@pytest.mark.parametrize("batch", ["n", 2])
def test_the_largest_neighbours_are_counted_for_one_image(batch: int | str) -> None:
    # What the convolution answers with, and the same after the ReLU; the image is not read again.
    model = classifier(17, batch)
    assert activation_bytes(model, "pixels", (3, SIDE, SIDE)) == LARGEST


def test_a_tensor_that_is_read_later_lives_until_then() -> None:
    model = classifier(17, "n")
    model.graph.node.append(helper.make_node("Mul", ["a", "a"], ["late"]))
    model.graph.output.append(helper.make_tensor_value_info("late", TensorProto.FLOAT, None))
    # The convolution's answer stays beside the last two.
    assert activation_bytes(model, "pixels", (3, SIDE, SIDE)) > LARGEST


def test_an_image_of_any_size_gets_that_of_the_recipe() -> None:
    model = classifier(17, "n")
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    assert activation_bytes(model, "pixels", (3, 2 * SIDE, 2 * SIDE)) == 4 * LARGEST
