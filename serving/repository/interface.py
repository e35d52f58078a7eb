"""The interface of a network that was made elsewhere: how an image becomes its input, and which
output answers the task.

Recipes (`model.input`), the file of `convserve adopt --preprocess` and manifests describe an input
with the same keys.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.base.errors import quoted
from serving.base.task import Task
from serving.base.tensor import TensorSpec

# A newer minor version may add fields, so unknown ones are passed over.
_FROZEN = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

# The largest number of each datatype that an image can become.
_LARGEST = {"FP32": 3.4e38, "FP16": 65504.0, "UINT8": 255.0}
IMAGE_DATATYPES = tuple(_LARGEST)

Axes = Literal["NCHW", "NHWC"]
Colours = Literal["RGB", "BGR", "grey"]
ByChannel = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]
Meaning = Literal["logits", "probabilities", "classes", "embedding"]


class GivenInput(BaseModel):
    """How the uint8 pixels of an image become a tensor: (value - mean) / std, where `value` runs
    from range[0] for a pixel of 0 to range[1] for one of 255. A person may leave out any key.

    name: of the tensor, the network's only input.
    layout: order of its axes; the batch is absent where the input has three.
    channels: their order, or one of grey.
    range: the values of black and of white, before mean and std.
    mean, std: one number a channel, in the order of the tensor and in the range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str | None = None
    layout: Axes | None = None
    channels: Colours | None = None
    range: tuple[float, float] | None = None
    mean: ByChannel | None = None
    std: ByChannel | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        depth = depth_of(self.channels)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if depth is not None and values is not None and len(values) != depth:
                raise ValueError(
                    f"{name}: expected {depth} numbers for {self.channels}, got {list(values)}"
                )
        if self.std is not None and not all(self.std):
            raise ValueError(f"std: expected no 0, got {list(self.std)}")
        if self.range is not None and self.range[0] == self.range[1]:
            raise ValueError(f"range: expected two numbers that differ, got {list(self.range)}")
        return self


def depth_of(channels: Colours | None) -> int | None:
    """The number of channels; None where nothing tells their order."""
    return None if channels is None else 1 if channels == "grey" else 3


class ImageInput(GivenInput):
    """A GivenInput of which every key is known."""

    model_config = _FROZEN

    name: str
    layout: Axes
    channels: Colours = "RGB"
    range: tuple[float, float] = (0.0, 1.0)
    mean: ByChannel = (0.0, 0.0, 0.0)
    std: ByChannel = (1.0, 1.0, 1.0)

    def __str__(self) -> str:
        numbers = (
            f"{key} [{', '.join(f'{value:.4g}' for value in getattr(self, key))}]"
            for key in ("range", "mean", "std")
        )
        return ", ".join((f"{self.layout} {self.channels}", *numbers))

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if not self.largest <= _LARGEST["FP32"]:
            raise ValueError(f"range, mean and std: make values of {self.largest:.3g}")
        return self

    @property
    def largest(self) -> float:
        """The largest magnitude in the tensor of any image; infinite where it overflows."""
        ends = [
            abs((value - mean) / std)
            for mean, std in zip(self.mean, self.std, strict=True)
            for value in self.range
        ]
        return max(ends) if all(map(math.isfinite, ends)) else math.inf

    @property
    def depth(self) -> int:
        """The number of channels."""
        return 1 if self.channels == "grey" else 3

    @property
    def as_they_are(self) -> bool:
        """Whether the tensor holds the pixels unchanged."""
        return self.range == (0.0, 255.0) and not any(self.mean) and set(self.std) == {1.0}

    def shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one image of `size` (height, width), without the batch."""
        return (self.depth, *size) if self.layout == "NCHW" else (*size, self.depth)


class TaskOutput(BaseModel):
    """The output that answers the task.

    holds: the meaning of its numbers. One logit or probability is that of class 1, of two classes.
    layout: order of its axes, for masks of logits or probabilities; "NCHW" is [classes, H, W].
    """

    model_config = _FROZEN

    output: str
    holds: Meaning = "logits"
    layout: Axes = "NCHW"


# The meanings that an answer to each task can have.
HELD: dict[Task, tuple[Meaning, ...]] = {
    "classification": ("logits", "probabilities"),
    "segmentation": ("logits", "probabilities", "classes"),
    "embedding": ("embedding",),
}


def unheld(task: Task, holds: Meaning) -> str:
    """Why an answer to a task cannot hold this; empty where it can."""
    able = HELD[task]
    return "" if holds in able else f"expected {' or '.join(able)} for {task}, got {holds}"


class Interface(BaseModel):
    """The interface of a network in its own form.

    input: None where it takes tensors only.
    answer: None where it has no task.
    """

    model_config = _FROZEN

    input: ImageInput | None = None
    answer: TaskOutput | None = None


def misfit(
    interface: Interface,
    size: tuple[int, int] | None,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
) -> str:
    """Why an interface does not fit the tensors of a network; empty where it does.

    size: (height, width) of the images; None without images.
    """
    image, answer = interface.input, interface.answer
    if image is not None and size is not None:
        names = [spec.name for spec in inputs]
        if names != [image.name]:
            return f"images need a network whose only input is {quoted(image.name)}; it has {names}"
        reason = image_misfit(image, size, inputs[0])
        if reason:
            return reason
        if inputs[0].datatype not in IMAGE_DATATYPES:
            return f"input {inputs[0]}: an image becomes one of {', '.join(IMAGE_DATATYPES)}"
    if answer is None:
        return ""
    named = [spec for spec in outputs if spec.name == answer.output]
    if not named:
        return f"no output {quoted(answer.output)}; it has {[spec.name for spec in outputs]}"
    if named[0].dtype.kind not in ("biu" if answer.holds == "classes" else "f"):
        return f"output {named[0]} cannot hold {answer.holds}"
    return ""


def image_misfit(image: ImageInput, size: tuple[int, int], spec: TensorSpec, batch: int = 1) -> str:
    """Why a tensor holds no image of `size` (height, width), alone or in a batch of so many; empty
    where it does."""
    wanted = image.shape(size)
    if not (spec.fits(wanted) or spec.fits((batch, *wanted))):
        return (
            f"input {spec} takes no image of {size[1]}x{size[0]} as {image.layout} with "
            f"{image.depth} channels"
        )
    if spec.datatype == "UINT8" and not image.as_they_are:
        return f"input {spec} holds whole numbers: expected range [0, 255], no mean and no std"
    if not image.largest <= _LARGEST.get(spec.datatype, math.inf):
        return f"input {spec} holds no numbers of {image.largest:.3g}"
    return ""
