"""What --preprocess, --task and their kin say of a network: how images become its input, and which
output answers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from serving.base.errors import quoted
from serving.base.task import Task
from serving.base.tensor import Array, TensorSpec
from serving.repository.interface import (
    HELD,
    Axes,
    GivenInput,
    ImageInput,
    Interface,
    Meaning,
    TaskOutput,
    depth_of,
    misfit,
    unheld,
)
from serving.repository.manifest import EvalTransform
from training.errors import RecipeError
from training.models.files.description import completed
from training.pipeline.adopt.served import ServedModel
from training.recipes.data import IMAGENET, NO_CROP, Transform
from training.recipes.fields import Strict
from training.recipes.loading import read_document
from training.recipes.problems import problems

_USUAL = "imagenet"
# The usual evaluation on ImageNet: the shorter side to 256, of which 224 are shown.
_SHOWN = 224 / 256
_IMAGENET_SIDE = 224
# Distance from 0, or from 1 in a sum, that probabilities in FP32 may have.
_ROUNDING = 1e-3


class Preprocess(Strict):
    """The file of --preprocess.

    transform: as in a recipe; by default images are stretched to the size of the network's input.
    input: as model.input of a recipe. Nothing is tried: mean and std are 0 and 1 by default.
    """

    transform: Transform | None = None
    input: GivenInput = GivenInput()


@dataclass(frozen=True)
class Described:
    """An interface on top of the tensors, and the resize and crop of its images."""

    transform: EvalTransform | None = None
    image: ImageInput | None = None

    def interface(self, answer: TaskOutput | None) -> Interface:
        """The interface with an answer."""
        return Interface(input=self.image, answer=answer)


def describe_images(given: str, model: ServedModel, task: Task | None) -> Described:
    """How images become the input of a network: `imagenet`, or as a YAML file says. A segmentation
    sees the whole image.

    Raises RecipeError naming the file, the key and what was expected.
    """
    if len(model.inputs) != 1:
        names = [spec.name for spec in model.inputs]
        raise RecipeError(f"--preprocess: an image is one input, the network has {names}")
    spec = model.inputs[0]
    usual = given == _USUAL
    where = "--preprocess" if usual else given
    asked = (
        Preprocess(input=GivenInput.model_validate(IMAGENET[3])) if usual else _read(Path(given))
    )
    transform = asked.transform
    depth = depth_of(asked.input.channels) or 3
    if transform is not None and "channels" in transform.model_fields_set:
        depth = transform.channels
    image = completed(asked.input, spec, _axes(spec, model), depth, f"{where}: input")
    size = _size(spec, model, image.layout)
    whole = task == "segmentation"
    if usual:
        height, width = size or (_IMAGENET_SIDE, _IMAGENET_SIDE)
        transform = Transform(
            resize=(height, width) if whole else round(min(height, width) / _SHOWN),
            crop=None if whole else (height, width),
            filter="bilinear",
        )
    elif transform is None:
        transform = Transform(resize=_required(where, size))
    if whole and transform.crop is not None:
        raise RecipeError(f"{where}: transform.crop: {NO_CROP}")
    seen = transform.model_copy(update={"channels": depth})
    reason = misfit(Interface(input=image), seen.size, model.inputs, model.outputs)
    if reason:
        raise RecipeError(f"{where}: {reason}")
    return Described(EvalTransform.model_validate(seen.model_dump()), image)


def describe_answer(
    task: Task, output: str | None, holds: Meaning | None, model: ServedModel, images: Described
) -> TaskOutput:
    """The output that answers a task, the first unless one is named. What it holds is told by
    `holds`, or else taken for logits until `held_by` has seen answers. Raises RecipeError."""
    by_name = {spec.name: spec for spec in model.outputs}
    spec = by_name.get(output or model.outputs[0].name)
    if spec is None:
        raise RecipeError(f"--output: expected one of {list(by_name)}, got {output!r}")
    if holds is not None and (reason := unheld(task, holds)):
        raise RecipeError(f"--holds: {reason}")
    able = HELD[task]
    whole = spec.dtype.kind in "biu"
    meant = holds or ("classes" if whole and "classes" in able else able[0])
    if whole != (meant == "classes"):
        raise RecipeError(f"--output: {spec} cannot hold {meant}; name another output, or --holds")
    return TaskOutput(output=spec.name, holds=meant, layout=_class_axis(spec, images))


def _class_axis(spec: TensorSpec, images: Described) -> Axes:
    """The layout of a mask's scores: by where the image's size stands, else that of the image."""
    if images.image is None or images.transform is None:
        return "NCHW"
    if len(spec.shape) >= 3:
        height, width = images.transform.size
        if spec.shape[-2:] == (height, width):
            return "NCHW"
        if spec.shape[-3:-1] == (height, width):
            return "NHWC"
    return images.image.layout


def held_by(answer: TaskOutput, values: Array) -> TaskOutput:
    """The answer with the meaning that FP32's answers to some images have, [n, ...]: probabilities
    where they are between 0 and 1 and, of several classes, 1 together."""
    scores = values.astype(np.float64)
    if scores.ndim >= 4 and answer.layout == "NCHW":
        scores = np.moveaxis(scores, -3, -1)
    elif scores.ndim < 4:
        scores = scores.reshape(len(scores), -1)
    inside = scores.size and scores.min() >= -_ROUNDING and scores.max() <= 1 + _ROUNDING
    alone = scores.shape[-1] == 1
    if inside and (alone or np.allclose(scores.sum(axis=-1), 1, atol=_ROUNDING)):
        return answer.model_copy(update={"holds": "probabilities"})
    return answer


def _read(path: Path) -> Preprocess:
    if not path.is_file():
        raise RecipeError(
            f"--preprocess: expected {_USUAL} or a file, and there is no file {quoted(str(path))}"
        )
    document = read_document(path)
    try:
        return Preprocess.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(problems(document, error, Preprocess))}") from error


def _axes(spec: TensorSpec, model: ServedModel) -> tuple[int, ...]:
    """The three sizes of one image, without the batch."""
    return spec.shape[1:] if model.batches or len(spec.shape) == 4 else spec.shape


def _size(spec: TensorSpec, model: ServedModel, layout: str) -> tuple[int, int] | None:
    """Height and width of the input; None where each call may choose them."""
    axes = _axes(spec, model)
    height, width = axes[1:] if layout == "NCHW" else axes[:2]
    return (height, width) if height > 0 and width > 0 else None


def _required(where: str, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        raise RecipeError(
            f"{where}: transform.resize: missing; the network takes images of any size, so "
            "give [height, width]"
        )
    return size
