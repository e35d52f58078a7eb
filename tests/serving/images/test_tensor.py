"""Pixels as the tensors of networks that others made."""

import numpy as np
import pytest

from serving.base.tensor import TensorSpec
from serving.images.tensor import ToTensor
from serving.repository.interface import ImageInput

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
IMAGENET = ImageInput(
    name="x", layout="NCHW", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)


def test_the_usual_normalisation_is_that_of_its_formula() -> None:
    tensor = ToTensor(IMAGENET, TensorSpec("x", "FP32", (-1, 3, 4, 6)))(PIXELS)
    wanted = (PIXELS / 255 - np.array(IMAGENET.mean)) / np.array(IMAGENET.std)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    np.testing.assert_allclose(tensor, wanted.transpose(2, 0, 1)[None], atol=1e-6)


def test_range_and_order_of_channels_are_those_of_the_tensor() -> None:
    described = ImageInput(name="x", layout="NHWC", channels="BGR", range=(-1, 1), mean=(0.5, 0, 0))
    tensor = ToTensor(described, TensorSpec("x", "FP32", (-1, 4, 6, 3)))(PIXELS)
    wanted = PIXELS[..., ::-1] / 127.5 - 1 - np.array([0.5, 0, 0])
    np.testing.assert_allclose(tensor, wanted[None], atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "layout", "found"),
    [
        ((3, 4, 6), "NCHW", (3, 4, 6)),
        ((4, 6, 3), "NHWC", (4, 6, 3)),
        ((1, 3, 4, 6), "NCHW", (1, 3, 4, 6)),
        ((-1, 3, -1, -1), "NCHW", (1, 3, 4, 6)),
    ],
)
def test_a_batch_of_one_is_there_where_the_input_has_four_dimensions(
    shape: tuple[int, ...], layout: str, found: tuple[int, ...]
) -> None:
    described = ImageInput.model_validate({"name": "x", "layout": layout})
    assert ToTensor(described, TensorSpec("x", "FP32", shape))(PIXELS).shape == found


def test_bytes_stay_as_they_are() -> None:
    described = ImageInput(name="x", layout="NHWC", range=(0, 255))
    tensor = ToTensor(described, TensorSpec("x", "UINT8", (-1, 4, 6, 3)))(PIXELS)
    assert tensor.dtype == np.uint8
    assert np.array_equal(tensor[0], PIXELS)


def test_halves_are_rounded_once() -> None:
    full = ToTensor(IMAGENET, TensorSpec("x", "FP32", (-1, 3, 4, 6)))(PIXELS)
    half = ToTensor(IMAGENET, TensorSpec("x", "FP16", (-1, 3, 4, 6)))(PIXELS)
    assert half.dtype == np.float16
    assert np.array_equal(half, full.astype(np.float16))


def test_one_channel_has_a_table_of_its_own() -> None:
    described = ImageInput(name="x", layout="NCHW", channels="grey", mean=(0.5,), std=(0.25,))
    grey = PIXELS[..., :1]
    tensor = ToTensor(described, TensorSpec("x", "FP32", (-1, 1, 4, 6)))(grey)
    assert tensor.shape == (1, 1, 4, 6)
    np.testing.assert_allclose(tensor[0, 0], (grey[..., 0] / 255 - 0.5) / 0.25, atol=1e-6)
