"""What --preprocess, --task and their kin say of a network: how images become its input, and which
output answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from serving.base.task import Task
from serving.base.tensor import Array, TensorSpec
from serving.repository.interface import HELD, ImageInput, Interface, TaskOutput, misfit
from serving.repository.manifest import EvalTransform
from training.errors import RecipeError
from training.pipeline.adopt.served import ServedModel
from training.recipes.fields import PositiveInt, Strict
from training.recipes.loading import read_document
from training.recipes.problems import problems

IMAGENET = "imagenet"
# The usual evaluation on ImageNet: the shorter side to 256, of which 224 are shown.
_SHOWN = 224 / 256
_IMAGENET_SIDE = 224
# Distance from 0, or from 1 in a sum, that probabilities in FP32 may have.
_ROUNDING = 1e-3

Channel = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


class Preprocess(Strict):
    """The file of --preprocess. Pixels run from range[0] for 0 to range[1] for 255; the tensor
    holds (value - mean) / std.

    resize: the shorter side, or (height, width); by default the network's input, stretched.
    crop: (height, width) of the centre that is cut out after it.
    mean, std: one number a channel, in the order of `channels`.
    layout: by default as the input's dimensions say.
    """

    resize: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
    crop: tuple[PositiveInt, PositiveInt] | None = None
    filter: Literal["area", "bilinear", "bicubic"] = "area"
    range: tuple[float, float] = (0.0, 1.0)
    mean: Channel | None = None
    std: Channel | None = None
    channels: Literal["RGB", "BGR", "grey"] = "RGB"
    layout: Literal["NCHW", "NHWC"] | None = None


@dataclass(frozen=True)
class Described:
    """An interface on top of the tensors, and the resize and crop of its images."""

    transform: EvalTransform | None = None
    image: ImageInput | None = None

    def interface(self, answer: TaskOutput | None) -> Interface:
        """The interface with an answer."""
        return Interface(image=self.image, answer=answer)


def describe_images(given: str, model: ServedModel) -> Described:
    """How images become the input of a network: `imagenet`, or as a YAML file says.

    Raises RecipeError naming the file, the key and what was expected.
    """
    if len(model.inputs) != 1:
        names = [spec.name for spec in model.inputs]
        raise RecipeError(f"--preprocess: an image is one input, the network has {names}")
    spec = model.inputs[0]
    asked = _imagenet(spec, model) if given == IMAGENET else _read(Path(given))
    where = "--preprocess" if given == IMAGENET else given
    depth = 1 if asked.channels == "grey" else 3
    layout = asked.layout or _layout(where, spec, model, depth)
    size = _size(spec, model, layout)
    try:
        transform = EvalTransform(
            resize=asked.resize or asked.crop or _required(where, size),
            crop=asked.crop,
            filter=asked.filter,
            channels=1 if asked.channels == "grey" else 3,
        )
        shown = transform.size
        image = ImageInput(
            input=spec.name,
            layout=layout,
            channels=asked.channels,
            range=asked.range,
            mean=asked.mean or (0.0,) * depth,
            std=asked.std or (1.0,) * depth,
        )
    except ValidationError as error:
        raise RecipeError(f"{where}: {_first(error)}") from error
    except ValueError as error:
        raise RecipeError(f"{where}: {error}") from error
    reason = misfit(Interface(image=image), shown, model.inputs, model.outputs)
    if reason:
        raise RecipeError(f"{where}: {reason}")
    return Described(transform, image)


def describe_answer(
    task: Task, output: str | None, holds: str | None, model: ServedModel, images: Described
) -> TaskOutput:
    """The output that answers a task, the first unless one is named. What it holds is told by
    `holds`, or else taken for logits until `held_by` has seen answers. Raises RecipeError."""
    by_name = {spec.name: spec for spec in model.outputs}
    spec = by_name.get(output or model.outputs[0].name)
    if spec is None:
        raise RecipeError(f"--output: expected one of {list(by_name)}, got {output!r}")
    able = HELD[task]
    if holds is not None and holds not in able:
        raise RecipeError(f"--holds: expected {' or '.join(able)} for {task}, got {holds}")
    whole = spec.dtype.kind in "biu"
    meant = holds or ("classes" if whole and "classes" in able else able[0])
    if whole != (meant == "classes"):
        raise RecipeError(f"--output: {spec} cannot hold {meant}; name another output, or --holds")
    try:
        return TaskOutput.model_validate(
            {"output": spec.name, "holds": meant, "layout": _class_axis(spec, images)}
        )
    except ValidationError as error:
        raise RecipeError(f"--output: {_first(error)}") from error


def _class_axis(spec: TensorSpec, images: Described) -> str:
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


def _imagenet(spec: TensorSpec, model: ServedModel) -> Preprocess:
    layout = _layout("--preprocess", spec, model, 3)
    height, width = _size(spec, model, layout) or (_IMAGENET_SIDE, _IMAGENET_SIDE)
    return Preprocess(
        resize=round(min(height, width) / _SHOWN),
        crop=(height, width),
        filter="bilinear",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        layout=layout,
    )


def _read(path: Path) -> Preprocess:
    document = read_document(path)
    try:
        return Preprocess.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"{path}: {'; '.join(problems(document, error, Preprocess))}") from error


def _axes(spec: TensorSpec, model: ServedModel) -> tuple[int, ...]:
    """The three sizes of one image, without the batch."""
    return spec.shape[1:] if model.batches or len(spec.shape) == 4 else spec.shape


def _layout(
    where: str, spec: TensorSpec, model: ServedModel, depth: int
) -> Literal["NCHW", "NHWC"]:
    axes = _axes(spec, model)
    if len(axes) != 3:
        raise RecipeError(f"{where}: input {spec} is no image: expected 3 dimensions and the batch")
    first, last = axes[0] == depth, axes[2] == depth
    if first and not last:
        return "NCHW"
    if last and not first:
        return "NHWC"
    raise RecipeError(
        f"{where}: input {spec}: which dimension holds the {depth} channels is not plain; a file "
        "says it with layout: NCHW or NHWC"
    )


def _size(spec: TensorSpec, model: ServedModel, layout: str) -> tuple[int, int] | None:
    """Height and width of the input; None where each call may choose them."""
    axes = _axes(spec, model)
    height, width = axes[1:] if layout == "NCHW" else axes[:2]
    return (height, width) if height > 0 and width > 0 else None


def _required(where: str, size: tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        raise RecipeError(
            f"{where}: resize: missing; the network takes images of any size, so give [height, "
            "width]"
        )
    return size


def _first(error: ValidationError) -> str:
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message
