"""A model's file has the tensors that config.pbtxt promises, or is refused by name."""

from pathlib import Path

import pytest

from serving.base.errors import InvalidModelConfig
from serving.base.tensor import TensorSpec
from serving.repository.model_config import (
    check_against_engine,
)
from tests.serving.repository.configs import IMAGE, LOGITS, TYPICAL, parsed

MODEL_FILE = Path("digits/1/model.onnx")


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((IMAGE,), (LOGITS,)),
        # The file may fix the batch, leave sizes open, and give more than was promised.
        ((TensorSpec("image", "UINT8", (8, 32, 32, 3)),), (LOGITS,)),
        ((TensorSpec("image", "UINT8", (-1, -1, -1, 3)),), (LOGITS,)),
        ((IMAGE,), (TensorSpec("features", "FP32", (-1, 64)), LOGITS)),
    ],
    ids=["equal", "fixed batch", "open size", "more outputs"],
)
def test_file_that_keeps_the_promise_is_accepted(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    config = parsed(TYPICAL)
    check_against_engine(config, inputs, outputs, MODEL_FILE)
    assert config.inputs == (IMAGE,)


def test_config_without_tensors_accepts_any_file() -> None:
    config = parsed("max_batch_size: 4")
    check_against_engine(config, (IMAGE,), (LOGITS,), MODEL_FILE)
    assert config.inputs == ()


@pytest.mark.parametrize(
    ("inputs", "outputs", "said"),
    [
        (
            (TensorSpec("pixels", "UINT8", IMAGE.shape),),
            (LOGITS,),
            r"promises input 'image', the file has \['pixels'\]",
        ),
        (
            (IMAGE,),
            (TensorSpec("scores", "FP32", LOGITS.shape),),
            r"promises output 'logits', the file has \['scores'\]",
        ),
        (
            (TensorSpec("image", "FP32", IMAGE.shape),),
            (LOGITS,),
            r"promises input image UINT8\[-1, 32, 32, 3\], the file has image FP32",
        ),
        (
            (TensorSpec("image", "UINT8", (-1, 3, 32, 32)),),
            (LOGITS,),
            r"the file has image UINT8\[-1, 3, 32, 32\]",
        ),
        (
            (IMAGE,),
            (TensorSpec("logits", "FP32", (-1, 10, 1)),),
            r"promises output logits FP32\[-1, 10\], the file has logits FP32\[-1, 10, 1\]",
        ),
        (
            (IMAGE, TensorSpec("mean", "FP32", (3,))),
            (LOGITS,),
            r"the file needs inputs \['mean'\] that config\.pbtxt leaves out",
        ),
    ],
)
def test_file_that_breaks_the_promise_is_refused_by_name(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], said: str
) -> None:
    with pytest.raises(InvalidModelConfig, match=said) as refusal:
        check_against_engine(parsed(TYPICAL), inputs, outputs, MODEL_FILE)
    assert str(refusal.value).startswith("digits/1/model.onnx: ")
