"""The interface of a network that others made, against its tensors and its manifest."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving.base.errors import InvalidManifest
from serving.base.tensor import TensorSpec
from serving.repository.interface import ImageInput, Interface, TaskOutput, misfit
from serving.repository.manifest import Manifest, read_manifest, write_manifest
from tests.serving.repository.test_manifest import MANIFEST

PIXELS = TensorSpec("x", "FP32", (-1, 3, 8, 8))
SCORES = TensorSpec("y", "FP32", (-1, 4))
IMAGE = ImageInput(name="x", layout="NCHW")


@pytest.mark.parametrize("shape", [(-1, 3, 8, 8), (1, 3, 8, 8), (3, 8, 8), (-1, 3, -1, -1)])
def test_an_image_fits_with_and_without_a_batch(shape: tuple[int, ...]) -> None:
    assert misfit(Interface(input=IMAGE), (8, 8), [TensorSpec("x", "FP32", shape)], [SCORES]) == ""


@pytest.mark.parametrize(
    ("interface", "inputs", "reason"),
    [
        (Interface(input=IMAGE), [PIXELS, SCORES], "only input is 'x'; it has"),
        (Interface(input=IMAGE), [TensorSpec("z", "FP32", (-1, 3, 8, 8))], "only input is 'x'"),
        (Interface(input=IMAGE), [TensorSpec("x", "FP32", (-1, 8, 8, 3))], "no image of 8x8 as NC"),
        (Interface(input=IMAGE), [TensorSpec("x", "FP32", (-1, 3, 9, 8))], "no image of 8x8"),
        (Interface(input=IMAGE), [TensorSpec("x", "INT64", (-1, 3, 8, 8))], "becomes one of FP32"),
        (Interface(input=IMAGE), [TensorSpec("x", "UINT8", (-1, 3, 8, 8))], "whole numbers"),
        (Interface(answer=TaskOutput(output="z")), [PIXELS], "no output 'z'"),
        (Interface(answer=TaskOutput(output="z\n" * 5000)), [PIXELS], "no output 'z\\nz"),
        (
            Interface(answer=TaskOutput(output="y", holds="classes")),
            [PIXELS],
            "cannot hold classes",
        ),
        (
            Interface(input=ImageInput(name="x", layout="NCHW", range=(0, 1e6))),
            [TensorSpec("x", "FP16", (-1, 3, 8, 8))],
            "holds no numbers of 1e+06",
        ),
    ],
)
def test_what_does_not_fit_is_said(
    interface: Interface, inputs: list[TensorSpec], reason: str
) -> None:
    said = misfit(interface, (8, 8), inputs, [SCORES])
    assert reason in said
    assert len(said) < 400


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"mean": (0.5,)}, "mean: expected 3 numbers for RGB"),
        ({"channels": "grey"}, "mean: expected 1 numbers for grey"),
        ({"std": (1, 0, 1)}, "std: expected no 0"),
        ({"range": (0, float("inf"))}, "finite"),
        ({"range": (-1e308, 1e308)}, "range, mean and std: make values of 1e\\+308"),
        ({"std": (1, 1e-320, 1)}, "range, mean and std: make values of inf"),
        ({"mean": (0.5,) * 1_000_000}, "mean"),
        ({"mean": "0.5"}, "mean"),
        ({"layout": "HWC"}, "layout"),
        ({"range": (1, 1)}, "range: expected two numbers that differ"),
    ],
)
def test_an_image_input_is_consistent(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        ImageInput.model_validate({"name": "x", "layout": "NCHW"} | given)


FOREIGN = MANIFEST.model_copy(
    update={
        "normalization": None,
        "interface": Interface(input=IMAGE, answer=TaskOutput(output="y", holds="probabilities")),
        "gmacs": None,
    }
)


def test_an_interface_is_read_back_equal(tmp_path: Path) -> None:
    write_manifest(tmp_path, FOREIGN)
    found = read_manifest(tmp_path)
    assert found == FOREIGN
    assert found.answer == "y"
    assert MANIFEST.answer == "logits"


def test_tensors_alone_have_neither_task_nor_images(tmp_path: Path) -> None:
    tensors = FOREIGN.model_copy(
        update={"task": None, "transform": None, "interface": Interface(), "measure": "agreement"}
    )
    write_manifest(tmp_path, tensors)
    found = read_manifest(tmp_path)
    assert found == tensors
    assert found.answer is None


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ({"interface": None}, "normalization: missing, and no interface"),
        ({"transform": None}, "interface.input: expected together with transform"),
        ({"task": None}, "interface.answer: expected together with task"),
        ({"task": "embedding"}, "holds: expected embedding for embedding, got probabilities"),
        ({"transform": {"resize": 9}}, "a crop must follow"),
        (
            {"transform": {"resize": [8, 8], "channels": 1}},
            "transform.channels: expected 3 for RGB, got 1",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    edit: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    document = json.loads(Manifest.model_dump_json(FOREIGN)) | edit
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(InvalidManifest, match=reason):
        read_manifest(tmp_path)
