"""A network as it is served: bytes of an image in, the typed answer of its task out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from serving.base.task import IMAGE_INPUT, PROBABILITY_OUTPUT, TASKS, Task
from serving.base.tensor import Array, TensorSpec
from training.data.readers import Pixels
from training.recipes.data import Normalization


def input_specs(size: tuple[int, int], channels: int = 3) -> tuple[TensorSpec, ...]:
    """`image`, uint8 [N, height, width, channels], RGB or grey."""
    return (TensorSpec(IMAGE_INPUT, "UINT8", (-1, *size, channels)),)


def output_specs(task: Task, channels: int, size: tuple[int, int]) -> tuple[TensorSpec, ...]:
    """The outputs of a file whose network answers with `channels` values; the first is the answer.

    Classification: `logits` float32 [N, channels]. Embedding: `embedding` float32 [N, channels], of
    length 1. Segmentation: `mask` uint8 [N, H, W], the class, and `confidence` uint8 [N, H, W],
    255 × its probability; of one channel, which is binary, `probability` uint8 [N, H, W], 255 × the
    foreground's.
    """
    return LAST_STEPS[task].outputs(channels, size)


class Served(Protocol):
    """A network that answers as it will be served, in FP32."""

    def answers(self, names: tuple[str, ...], images: Pixels) -> dict[str, Array]:
        """The outputs `names`, those of output_specs, for images uint8 [N, H, W, C]."""


class Deployed(nn.Module):
    """A network between the casts, the normalisation and the last step (argmax, sigmoid, projection
    onto the unit sphere) that its ONNX file holds.

    `network` takes float32 NCHW; `forward` takes `image` as in input_specs and gives the outputs of
    output_specs, in their order. TensorRT knows uint8 at the edge only: it is cast to float before
    anything else, and from float last of all.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, network: nn.Module, task: Task, normalization: Normalization) -> None:
        super().__init__()
        self.network = network
        self.task = task
        mean, std = torch.tensor(normalization.mean), torch.tensor(normalization.std)
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return LAST_STEPS[self.task].apply(self.network(self.normalized(image)))

    def normalized(self, image: Tensor) -> Tensor:
        """uint8 [N, H, W, C] to the network's input, float32 [N, C, H, W]."""
        pixels = image.to(torch.float32) * self.scale + self.shift
        # Without a copy the export would record the strides of the permuted view, and contiguous()
        # copies no single channel.
        return pixels.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)

    def answers(self, names: tuple[str, ...], images: Pixels) -> dict[str, Array]:
        """As every Served."""
        with torch.inference_mode():
            outputs = self(torch.from_numpy(np.ascontiguousarray(images)))
        return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}


@dataclass(frozen=True)
class LastStep:
    """The end of a task's file.

    outputs: their names, shapes and types, from the network's channels and the image's size.
    apply: makes them of the network's answer; TensorRT wants the cast to uint8 last of all.
    """

    outputs: Callable[[int, tuple[int, int]], tuple[TensorSpec, ...]]
    apply: Callable[[Tensor], tuple[Tensor, ...]]


def _mask_specs(channels: int, size: tuple[int, int]) -> tuple[TensorSpec, ...]:
    if channels == 1:
        return (TensorSpec(PROBABILITY_OUTPUT, "UINT8", (-1, *size)),)
    return (
        TensorSpec(TASKS["segmentation"].output, "UINT8", (-1, *size)),
        TensorSpec("confidence", "UINT8", (-1, *size)),
    )


def _masked(values: Tensor) -> tuple[Tensor, ...]:
    if values.shape[1] == 1:
        return (_levels(values.sigmoid().squeeze(1)),)
    probability, winner = values.softmax(dim=1).max(dim=1)
    return winner.to(torch.float32).to(torch.uint8), _levels(probability)


def _unit(values: Tensor) -> Tensor:
    """Rows of length 1. functional.normalize answers the same, but repeats each length by the shape
    of the input: a Shape of bytes, which TensorRT does not take."""
    lengths: Tensor = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return values / lengths.clamp_min(1e-12)


def _levels(probability: Tensor) -> Tensor:
    """Float in [0, 1] to the nearest of 256 levels, uint8."""
    return (probability * 255 + 0.5).floor().to(torch.uint8)


LAST_STEPS: dict[Task, LastStep] = {
    "classification": LastStep(
        outputs=lambda channels, size: (
            TensorSpec(TASKS["classification"].output, "FP32", (-1, channels)),
        ),
        apply=lambda values: (values,),
    ),
    "segmentation": LastStep(outputs=_mask_specs, apply=_masked),
    "embedding": LastStep(
        outputs=lambda channels, size: (
            TensorSpec(TASKS["embedding"].output, "FP32", (-1, channels)),
        ),
        apply=lambda values: (_unit(values),),
    ),
}


def run_deployed(deployed: Served, names: tuple[str, ...], images: Pixels) -> dict[str, Array]:
    """The answers of a network in FP32, by output name, as an engine would give them."""
    return deployed.answers(names, images)
