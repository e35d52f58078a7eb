"""The interface of a network that was made elsewhere, as a manifest describes it.

Its tensors stay those of config.pbtxt. The description adds how an image becomes its input, and
which output answers the task.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.base.task import Task
from serving.base.tensor import TensorSpec

# A newer minor version may add fields, so unknown ones are passed over.
_FROZEN = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

# Datatypes of a tensor that an image can become.
IMAGE_DATATYPES = ("FP32", "FP16", "UINT8")

Axes = Literal["NCHW", "NHWC"]
ByChannel = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]


class ImageInput(BaseModel):
    """How the uint8 pixels of an image become a tensor: (value - mean) / std, where `value` runs
    from range[0] for a pixel of 0 to range[1] for one of 255.

    input: name of the tensor, the network's only input.
    layout: order of its axes; the batch is absent where the input has three.
    channels: their order, or one of grey.
    mean, std: one number a channel, in the order of the tensor.
    """

    model_config = _FROZEN

    input: str
    layout: Axes
    channels: Literal["RGB", "BGR", "grey"] = "RGB"
    range: tuple[float, float] = (0.0, 1.0)
    mean: ByChannel = (0.0, 0.0, 0.0)
    std: ByChannel = (1.0, 1.0, 1.0)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.depth:
                raise ValueError(
                    f"{name}: expected {self.depth} numbers for {self.channels}, "
                    f"got {list(getattr(self, name))}"
                )
        if not all(self.std):
            raise ValueError(f"std: expected no 0, got {list(self.std)}")
        return self

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
    holds: Literal["logits", "probabilities", "classes", "embedding"] = "logits"
    layout: Axes = "NCHW"


# The meanings that an answer to each task can have.
HELD: dict[Task, tuple[str, ...]] = {
    "classification": ("logits", "probabilities"),
    "segmentation": ("logits", "probabilities", "classes"),
    "embedding": ("embedding",),
}


class Interface(BaseModel):
    """The interface of a network in its own form.

    image: None where it takes tensors only.
    answer: None where it has no task.
    """

    model_config = _FROZEN

    image: ImageInput | None = None
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
    image, answer = interface.image, interface.answer
    if image is not None and size is not None:
        names = [spec.name for spec in inputs]
        if names != [image.input]:
            return f"images need a network whose only input is {image.input!r}; it has {names}"
        wanted = image.shape(size)
        spec = inputs[0]
        if not (spec.fits(wanted) or spec.fits((1, *wanted))):
            return (
                f"input {spec} takes no image of {size[1]}x{size[0]} as {image.layout} with "
                f"{image.depth} channels"
            )
        if spec.datatype not in IMAGE_DATATYPES:
            return f"input {spec}: an image becomes one of {', '.join(IMAGE_DATATYPES)}"
        if spec.datatype == "UINT8" and not image.as_they_are:
            return f"input {spec} holds whole numbers: expected range [0, 255], no mean and no std"
    if answer is not None and answer.output not in {spec.name for spec in outputs}:
        return f"no output {answer.output!r}; it has {[spec.name for spec in outputs]}"
    return ""
