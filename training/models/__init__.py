"""The networks that can be built by name, and what the other stages ask of any of them."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn
from torchvision import models as torchvision_models

from training.models.complexity import count_macs, count_parameters
from training.models.resnet_cifar import CifarResNet
from training.models.unet import UNet

__all__ = [
    "MODELS",
    "ModelEntry",
    "build_model",
    "count_macs",
    "count_parameters",
    "unprunable_layers",
]

Task = Literal["classification", "segmentation"]


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One network that can be built: untrained, float32, [N, 3, H, W] in, logits out.

    Logits are [N, classes] for classification and [N, classes, H, W] for segmentation.
    `build` is called with `num_classes` and the options, all by keyword.
    `input_size` is the (height, width) that the network was designed for; others work too.
    `paper` is an arXiv id, `options` the names that `build_model` passes on.
    """

    build: Callable[..., nn.Module]
    task: Task
    input_size: tuple[int, int]
    paper: str
    options: tuple[str, ...] = ()


def _cifar_resnet(depth: int) -> ModelEntry:
    return ModelEntry(partial(CifarResNet, depth), "classification", (32, 32), "1512.03385")


def _imagenet(build: Callable[..., nn.Module], paper: str) -> ModelEntry:
    return ModelEntry(partial(build, weights=None), "classification", (224, 224), paper)


MODELS: dict[str, ModelEntry] = {
    "resnet20_cifar": _cifar_resnet(20),
    "resnet32_cifar": _cifar_resnet(32),
    "resnet44_cifar": _cifar_resnet(44),
    "resnet56_cifar": _cifar_resnet(56),
    "resnet110_cifar": _cifar_resnet(110),
    "resnet18": _imagenet(torchvision_models.resnet18, "1512.03385"),
    "resnet34": _imagenet(torchvision_models.resnet34, "1512.03385"),
    "resnet50": _imagenet(torchvision_models.resnet50, "1512.03385"),
    "vgg16_bn": _imagenet(torchvision_models.vgg16_bn, "1409.1556"),
    "mobilenet_v2": _imagenet(torchvision_models.mobilenet_v2, "1801.04381"),
    "unet_vgg16_bn": ModelEntry(UNet, "segmentation", (96, 96), "1505.04597", ("width",)),
}


def build_model(name: str, num_classes: int, **options: object) -> nn.Module:
    """A fresh network of `MODELS`, randomly initialised from torch's global generator.

    ValueError for a name that is not there, with the nearest ones, for fewer than one class, and
    for an option that the network does not have.
    """
    entry = MODELS.get(name)
    if entry is None:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(MODELS)}"
        raise ValueError(f"unknown model {name!r}; {hint}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if unknown := sorted(options.keys() - set(entry.options)):
        accepted = ", ".join(entry.options) or "none"
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it accepts: {accepted}")
    return entry.build(num_classes=num_classes, **options)


def unprunable_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose output channels structured pruning must leave alone.

    Always among them is the last convolution or linear layer, whose outputs are the classes.
    """
    if isinstance(model, CifarResNet | UNet):
        return model.unprunable_layers()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return list(layers[-1:])
