"""The answers of networks that others made, in the words of a task."""

import numpy as np
import pytest

from serving.base.errors import EngineError
from serving.images.answers import embeddings_of, mask_of, scores_of
from serving.repository.interface import TaskOutput

LOGITS = np.array([1.0, 3.0, -2.0], np.float32)


def softmax(values: np.ndarray, axis: int = -1) -> np.ndarray:
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def answer(holds: str, layout: str = "NCHW") -> TaskOutput:
    return TaskOutput.model_validate({"output": "y", "holds": holds, "layout": layout})


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3), (2, 3, 1, 1)])
def test_logits_become_scores_and_probabilities_are_scores(shape: tuple[int, ...]) -> None:
    images = np.stack([LOGITS, 2 * LOGITS])
    outputs = {"y": images.reshape(shape), "other": np.zeros(1)}
    scores = scores_of(outputs, answer("logits"))
    np.testing.assert_allclose(scores, softmax(images), rtol=1e-6)
    outputs["y"] = softmax(images).reshape(shape)
    np.testing.assert_allclose(scores_of(outputs, answer("probabilities")), softmax(images))


@pytest.mark.parametrize(("holds", "value"), [("logits", np.log(3.0)), ("probabilities", 0.75)])
def test_one_number_is_that_of_the_second_of_two_classes(holds: str, value: float) -> None:
    scores = scores_of({"y": np.array([[value], [value]], np.float32)}, answer(holds))
    np.testing.assert_allclose(scores, [[0.25, 0.75]] * 2, rtol=1e-6)


def test_huge_logits_are_no_trouble() -> None:
    scores = scores_of({"y": np.array([[-1e30]], np.float32)}, answer("logits"))
    np.testing.assert_allclose(scores, [[1, 0]])


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("leading", [(), (1,)])
@pytest.mark.parametrize("holds", ["logits", "probabilities"])
def test_a_mask_is_the_best_class_of_each_pixel(
    layout: str, leading: tuple[int, ...], holds: str
) -> None:
    values = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    sure = softmax(values, axis=0)
    given = values if holds == "logits" else sure
    given = given if layout == "NCHW" else given.transpose(1, 2, 0)
    mask, confidence = mask_of({"y": given.reshape(leading + given.shape)}, answer(holds, layout))
    assert mask.dtype == confidence.dtype == np.uint8
    assert np.array_equal(mask, values.argmax(axis=0))
    np.testing.assert_allclose(confidence, 255 * sure.max(axis=0), atol=0.51)


@pytest.mark.parametrize("shape", [(5, 4), (1, 5, 4), (1, 1, 5, 4)])
def test_one_plane_is_the_foreground(shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    mask, confidence = mask_of({"y": values}, answer("logits"))
    assert np.array_equal(mask, values.reshape(5, 4) > 0)
    assert confidence.min() >= 127


def test_classes_come_without_confidence() -> None:
    classes = np.array([[[0, 7], [300, -1]]], np.int64)
    mask, confidence = mask_of({"y": classes}, answer("classes"))
    assert mask.tolist() == [[0, 7], [300, 0]]
    assert not confidence.any()


def test_embeddings_lie_on_the_unit_sphere() -> None:
    values = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], np.float32)
    points = embeddings_of({"y": values}, answer("embedding"))
    np.testing.assert_allclose(points, [[0.6, 0.8], [0, 0], [0, -1]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (2, 3, 4, 5), (3, 0), ()])
def test_an_output_that_is_no_mask_is_told(shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"output 'y' is (no mask|empty): got"):
        mask_of({"y": np.zeros(shape, np.float32)}, answer("logits", "NCHW"))


def test_an_empty_output_has_no_scores_and_no_embedding() -> None:
    for read, holds in ((scores_of, "logits"), (embeddings_of, "embedding")):
        with pytest.raises(EngineError, match="output 'y' is empty"):
            read({"y": np.zeros((0,), np.float32)}, answer(holds, "NCHW"))
