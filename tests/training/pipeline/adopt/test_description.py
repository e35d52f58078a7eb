"""--preprocess, --task and their kin against the tensors of a network."""

from pathlib import Path

import numpy as np
import pytest

from tests.support.foreign import write_foreign
from training.errors import RecipeError
from training.pipeline.adopt.description import Described, describe_answer, describe_images, held_by
from training.pipeline.adopt.served import ServedModel, read_served


def served(tmp_path: Path, name: str) -> ServedModel:
    return read_served(write_foreign(tmp_path, name), None)


def described(tmp_path: Path, name: str, text: str) -> Described:
    (tmp_path / "pixels.yaml").write_text(text)
    return describe_images(str(tmp_path / "pixels.yaml"), served(tmp_path, name), None)


@pytest.mark.parametrize(
    ("name", "layout"), [("opset11", "NCHW"), ("opset13", "NHWC"), ("one_image", "NCHW")]
)
def test_imagenet_is_the_usual_evaluation_at_the_size_of_the_input(
    name: str, layout: str, tmp_path: Path
) -> None:
    found = describe_images("imagenet", served(tmp_path, name), None)
    assert found.image is not None
    assert found.transform is not None
    assert found.image.layout == layout
    assert found.image.mean == (0.485, 0.456, 0.406)
    assert (found.transform.resize, found.transform.crop) == (18, (16, 16))
    assert found.transform.filter == "bilinear"


def test_a_segmentation_sees_the_whole_image(tmp_path: Path) -> None:
    model = served(tmp_path, "masks")
    found = describe_images("imagenet", model, "segmentation")
    assert found.transform is not None
    assert (found.transform.resize, found.transform.crop) == ((16, 16), None)
    (tmp_path / "x.yaml").write_text("transform: {resize: 20, crop: [16, 16]}")
    with pytest.raises(RecipeError, match=r"x\.yaml: transform\.crop: a segmentation answers for"):
        describe_images(str(tmp_path / "x.yaml"), model, "segmentation")


def test_a_file_that_says_nothing_stretches_to_the_input(tmp_path: Path) -> None:
    found = described(tmp_path, "opset13", "input: {channels: BGR}\n")
    assert found.transform is not None
    assert found.transform.resize == (16, 16)
    assert found.image is not None
    assert (found.image.layout, found.image.channels, found.image.range) == ("NHWC", "BGR", (0, 1))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("input: {chanels: BGR}", "input.chanels: unknown key; did you mean 'channels'"),
        ("transform: {resize: [16, 16], filter: lanczos}", "transform.filter: "),
        ("input: {mean: [0.5]}", "input.mean: expected 3 numbers for RGB"),
        ("input: {std: [1, 0, 1]}", "input: std: expected no 0"),
        ("transform: {resize: 20}", "a crop must follow"),
        ("transform: {resize: [20, 20]}", "takes no image of 20x20"),
        ("input: {channels: grey}", "has no dimension of 1 for the 1 channels"),
        ("{", "not valid YAML"),
        ("", "expected keys and values"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_its_key(
    text: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as refused:
        described(tmp_path, "opset11", text)
    assert "pixels.yaml: " in str(refused.value)
    assert reason in str(refused.value)


def test_a_network_that_takes_no_image_is_refused(tmp_path: Path) -> None:
    for name, reason in (
        ("two_inputs", "an image is one input"),
        ("fixed_batch", "takes no image"),
    ):
        with pytest.raises(RecipeError, match=reason):
            describe_images("imagenet", served(tmp_path, name), None)
    with pytest.raises(RecipeError, match="expected imagenet or a file, and there is no file"):
        describe_images(str(tmp_path / "none.yaml"), served(tmp_path, "opset11"), None)


def test_the_first_output_answers_unless_another_is_named(tmp_path: Path) -> None:
    model = served(tmp_path, "two_inputs")
    both = describe_answer("classification", "both", None, model, Described())
    assert (both.output, both.holds) == ("both", "logits")
    with pytest.raises(RecipeError, match=r"sign INT64.* cannot hold logits"):
        describe_answer("classification", None, None, model, Described())
    with pytest.raises(RecipeError, match="expected one of"):
        describe_answer("classification", "z", None, model, Described())
    with pytest.raises(RecipeError, match="--holds: expected logits or probabilities"):
        describe_answer("classification", "both", "embedding", model, Described())


def test_probabilities_are_told_by_their_sum(tmp_path: Path) -> None:
    answer = describe_answer("classification", None, None, served(tmp_path, "opset11"), Described())
    assert held_by(answer, np.array([[0.2, 0.8], [1, 0]])).holds == "probabilities"
    assert held_by(answer, np.array([[0.2, 0.9], [1, 0]])).holds == "logits"
    assert held_by(answer, np.array([[-1.0, 2.0]])).holds == "logits"
    assert held_by(answer, np.array([[0.3], [0.9]])).holds == "probabilities"
