"""The interface of a file: what it takes for an image, and what its answer means."""

from collections.abc import Iterator
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from serving.base.tensor import Array, TensorSpec
from training.data.samples import Pixels
from training.errors import ExportError
from training.recipes.data import Normalization
from training.recipes.model import Answer, FileInput

# Element types that an image may be taken in.
_TYPES = ("FP32", "FP16", "FP64", "UINT8")
_Values = tuple[float, ...]


class Description(BaseModel):
    """The input of a file, and its answer.

    name, datatype: of the input tensor.
    layout, order, range, mean, std: as in FileInput; mean and std are in the file's order.
    channels: of an image.
    output: name of the tensor that is the answer.
    answer: its meaning.
    classes_last: whether its classes are the last axis, of [N, H, W, C].
    batch: rows that a run of the file must have; 0 where it takes any number.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    datatype: str
    layout: Literal["NCHW", "NHWC"]
    order: Literal["RGB", "BGR"]
    range: Literal[1, 255]
    mean: _Values
    std: _Values
    channels: int
    output: str
    answer: Answer = "logits"
    classes_last: bool = False
    batch: int = 0

    def prepare(self, images: Pixels) -> Array:
        """uint8 [N, H, W, channels] as the file takes them."""
        values: Array = images[..., ::-1] if self.order == "BGR" else images
        if not self.is_plain:
            scaled = values.astype(np.float64) * (self.range / 255)
            values = (scaled - np.array(self.mean)) / np.array(self.std)
        if self.layout == "NCHW":
            values = values.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(values, TensorSpec("", self.datatype, ()).dtype)

    @property
    def is_plain(self) -> bool:
        """Whether the file takes pixels as they are."""
        return self.range == 255 and not any(self.mean) and set(self.std) == {1.0}

    @property
    def normalization(self) -> Normalization:
        """Of pixels in 0 to 1, in the order of the image's channels."""
        mean, std = (tuple(v / self.range for v in values) for values in (self.mean, self.std))
        if self.order == "BGR":
            mean, std = mean[::-1], std[::-1]
        return Normalization.model_validate({"mean": mean, "std": std})

    @property
    def way(self) -> str:
        """How pixels become the input, for people."""
        colours = f"{self.order}, " if self.channels == 3 else ""
        mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (self.mean, self.std))
        return f"{colours}0 to {self.range}, mean [{mean}], std [{std}]"

    def __str__(self) -> str:
        return (
            f"{self.name} {self.datatype} {self.layout}, {self.way}, batch {self.batch or 'any'}; "
            f"answer {self.output}: {self.answer}"
        )


def chosen_input(given: FileInput, inputs: tuple[TensorSpec, ...], named: str) -> TensorSpec:
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
    given: FileInput,
    spec: TensorSpec,
    image: tuple[int, ...],
    output: str,
    answer: Answer | None,
    named: str,
) -> Iterator[Description]:
    """The ways in which a file may take images of [height, width, channels], the likeliest first;
    one where `given` leaves nothing open. Raises ExportError where the file takes other images."""
    height, width, channels = image
    layout = given.layout or _layout(spec, channels)
    wanted = (channels, height, width) if layout == "NCHW" else (height, width, channels)
    if any(real not in (-1, asked) for real, asked in zip(spec.shape[1:], wanted, strict=True)):
        raise ExportError(
            f"{named}: takes {spec}, {layout}, and transform makes images of "
            f"{height}x{width} with {channels} channels"
        )
    orders: tuple[Literal["RGB", "BGR"], ...] = ("RGB", "BGR") if channels == 3 else ("RGB",)
    # Means that are guessed go with their colours.
    guessed = given.mean is None and given.std is None
    for way, mean, std in _ways(given, spec.datatype, channels):
        for order in orders if given.order is None else (given.order,):
            yield Description(
                name=spec.name,
                datatype=spec.datatype,
                layout=layout,
                order=order,
                range=way,
                mean=mean[::-1] if order == "BGR" and guessed else mean,
                std=std[::-1] if order == "BGR" and guessed else std,
                channels=channels,
                output=output,
                answer=answer or "logits",
                batch=max(spec.shape[0], 0),
            )


def _layout(spec: TensorSpec, channels: int) -> Literal["NCHW", "NHWC"]:
    """NHWC where only the last axis can be the channels."""
    _, first, _, last = spec.shape
    return "NHWC" if last == channels and first != channels else "NCHW"


def _ways(
    given: FileInput, datatype: str, channels: int
) -> Iterator[tuple[Literal[1, 255], _Values, _Values]]:
    """Range, mean and std, for RGB where they are guessed."""
    zeros, ones = (0.0,) * channels, (1.0,) * channels
    for name, values in (("mean", given.mean), ("std", given.std)):
        if values is not None and len(values) != channels:
            raise ExportError(
                f"model.input.{name}: expected {channels} values, one a channel, got {len(values)}"
            )
    if given.mean is not None or given.std is not None:
        mean, std = given.mean or zeros, given.std or ones
        large = max(map(abs, mean)) > 1 or max(std) > 1
        yield given.range or (255 if large or datatype == "UINT8" else 1), mean, std
    elif datatype == "UINT8":
        yield given.range or 255, zeros, ones
    elif given.range is not None:
        yield given.range, zeros, ones
    else:
        yield from _usual(channels)


def _usual(channels: int) -> Iterator[tuple[Literal[1, 255], _Values, _Values]]:
    """The usual ways, the most usual first."""
    zeros, halves, ones = ((value,) * channels for value in (0.0, 0.5, 1.0))
    grey = channels == 1
    yield 1, *(((0.449,), (0.226,)) if grey else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    yield 1, zeros, ones
    yield 1, halves, halves
    yield 255, zeros, ones
    if not grey:
        # Caffe's networks.
        yield 255, (123.68, 116.779, 103.939), ones
