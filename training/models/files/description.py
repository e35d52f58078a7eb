"""The interface of a file: how an image becomes its input, and what its answer means."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from serving.base.tensor import Array, TensorSpec
from serving.base.text import first_problem
from serving.images.tensor import ToTensor
from serving.repository.interface import (
    IMAGE_DATATYPES,
    Axes,
    Colours,
    GivenInput,
    ImageInput,
    TaskOutput,
    depth_of,
    image_misfit,
)
from serving.repository.manifest import Normalization
from training.data.readers import Pixels
from training.errors import ExportError, RecipeError
from training.recipes.data import IMAGENET

# Element types that an image may be taken in: the deployed form converts.
_TYPES = (*IMAGE_DATATYPES, "FP64")


class Description(BaseModel):
    """The input of a file, and its answer.

    image, answer: as a manifest would describe them.
    datatype: of the input tensor.
    batch: rows that a run of the file must have; 0 where it takes any number.
    """

    model_config = ConfigDict(frozen=True)

    image: ImageInput
    answer: TaskOutput
    datatype: str
    batch: int = 0

    def prepare(self, images: Pixels) -> Array:
        """uint8 [N, H, W, channels] as the file takes them."""
        one = ToTensor(self.image, TensorSpec(self.image.name, self.datatype, ()))
        return np.stack([one.of_item(image) for image in images])

    @property
    def normalization(self) -> Normalization:
        """Of pixels in 0 to 1, in the order of the image's channels."""
        low, high = self.image.range
        mean = tuple((value - low) / (high - low) for value in self.image.mean)
        std = tuple(value / (high - low) for value in self.image.std)
        if self.image.channels == "BGR":
            mean, std = mean[::-1], std[::-1]
        return Normalization(mean=mean, std=std)

    def __str__(self) -> str:
        return (
            f"{self.image.name} {self.datatype} {self.image}, batch {self.batch or 'any'}; "
            f"answer {self.answer.output}: {self.answer.holds}"
        )


def chosen_input(given: GivenInput, inputs: tuple[TensorSpec, ...], named: str) -> TensorSpec:
    """The input that takes images. Raises ExportError, beginning with `named`, where there are
    several, or it takes no images."""
    if not inputs:
        raise ExportError(f"{named}: has no input")
    shown = ", ".join(map(str, inputs))
    if given.name is not None and given.name not in {spec.name for spec in inputs}:
        raise ExportError(f"{named}: model.input.name: {given.name!r} is none of {shown}")
    if len(inputs) > 1:
        raise ExportError(
            f"{named}: has {len(inputs)} inputs ({shown}); a build publishes networks of images "
            "alone. `convserve adopt` keeps an interface as it is"
        )
    spec = inputs[0]
    if spec.datatype not in _TYPES:
        raise ExportError(f"{named}: takes {spec}; expected images in {', '.join(_TYPES)}")
    if len(spec.shape) != 4:
        raise ExportError(f"{named}: takes {spec}; expected images, four dimensions")
    return spec


def descriptions(
    given: GivenInput,
    spec: TensorSpec,
    image: tuple[int, ...],
    answer: TaskOutput,
    named: str,
) -> Iterator[Description]:
    """The ways in which a file may take images of [height, width, channels], the likeliest first;
    one where `given` leaves nothing open. Raises RecipeError and ExportError, which begin with
    `named`, where the file takes other images."""
    height, width, depth = image
    where = f"{named}: model.input"
    batch = max(spec.shape[0], 0)
    for way in _ways(given, spec.datatype, depth):
        taken = completed(given.model_copy(update=way), spec, spec.shape[1:], depth, where)
        reason = image_misfit(taken, (height, width), spec, batch or 1)
        if reason:
            raise ExportError(f"{named}: {reason}, and transform makes such images")
        yield Description(image=taken, answer=answer, datatype=spec.datatype, batch=batch)


def completed(
    given: GivenInput, spec: TensorSpec, axes: Sequence[int], depth: int, where: str
) -> ImageInput:
    """The input of images of `depth` channels, with values for all keys that are left out: the
    layout that the three `axes` of an image tell, RGB, and pixels up to 255 for bytes or where mean
    or std are beyond 1, else up to 1.

    Raises RecipeError, which begins with `where`, a dot and the key.
    """
    plain: Colours = "RGB" if depth == 3 else "grey"
    channels = given.channels or plain
    if depth_of(channels) != depth:
        raise RecipeError(
            f"{where}.channels: {channels}, and transform.channels makes images of {depth}"
        )
    mean, std = given.mean or (0.0,) * depth, given.std or (1.0,) * depth
    large = spec.datatype == "UINT8" or max(map(abs, (*mean, *std))) > 1
    try:
        return ImageInput(
            name=given.name or spec.name,
            layout=given.layout or _layout(spec, axes, depth, where),
            channels=channels,
            range=given.range or (0.0, 255.0 if large else 1.0),
            mean=mean,
            std=std,
        )
    except ValidationError as error:
        raise RecipeError(f"{where}.{first_problem(error)[1]}") from error


def _layout(spec: TensorSpec, axes: Sequence[int], depth: int, where: str) -> Axes:
    if len(axes) != 3:
        raise RecipeError(f"{where}: {spec} is no image: expected 3 dimensions and the batch")
    first, last = axes[0] == depth, axes[2] == depth
    if first == last:
        raise RecipeError(
            f"{where}: {spec} has {'two dimensions' if first else 'no dimension'} of {depth} for "
            f"the {depth} channels of an image; expected channels, or layout, to say how it takes "
            "one"
        )
    return "NCHW" if first else "NHWC"


def _ways(given: GivenInput, datatype: str, depth: int) -> Iterator[dict[str, Any]]:
    """Values for keys that are left out, the most usual first."""
    orders: tuple[Colours, ...] = ("RGB", "BGR") if depth == 3 else ("grey",)
    told = datatype == "UINT8" or any((given.range, given.mean, given.std))
    for numbers in [{}] if told else _usual(depth):
        for order in orders if given.channels is None else (given.channels,):
            # Means that are guessed go with their colours.
            turned = order == "BGR"
            by_channel = {
                key: values[::-1] if turned and key != "range" else values
                for key, values in numbers.items()
            }
            yield {"channels": order, **by_channel}


def _usual(depth: int) -> Iterator[dict[str, tuple[float, ...]]]:
    """The usual ways, the most usual first, for RGB."""
    zeros, halves, ones = ((value,) * depth for value in (0.0, 0.5, 1.0))
    yield {"range": (0.0, 1.0), **IMAGENET[depth]}
    yield {"range": (0.0, 1.0), "mean": zeros, "std": ones}
    yield {"range": (0.0, 1.0), "mean": halves, "std": halves}
    yield {"range": (0.0, 255.0), "mean": zeros, "std": ones}
    if depth == 3:
        # Caffe's networks.
        yield {"range": (0.0, 255.0), "mean": (123.68, 116.779, 103.939), "std": ones}
