"""The networks that can be built by name, and what the other stages ask of any of them."""

import difflib
from collections.abc import Callable
from functools import partial

from torch import nn
from torchvision import models as torchvision_models

from training.models import segmentation
from training.models.complexity import count_macs, count_parameters
from training.models.entry import STEPS, ModelEntry, Step, Task
from training.models.resnet_cifar import CifarResNet
from training.models.segmentation import BACKBONES, Segmenter
from training.models.unet_slim import SlimUNet

__all__ = [
    "MODELS",
    "STEPS",
    "ModelEntry",
    "Step",
    "Task",
    "build_model",
    "count_macs",
    "count_parameters",
    "drop_auxiliary_heads",
    "head_layers",
    "unprunable_layers",
]


def _cifar_resnet(depth: int) -> ModelEntry:
    return ModelEntry(partial(CifarResNet, depth), "classification", (32, 32), "1512.03385")


def _imagenet(build: Callable[..., nn.Module], paper: str) -> ModelEntry:
    return ModelEntry(partial(build, weights=None), "classification", (224, 224), paper)


def _segmenters(architecture: str, paper: str) -> dict[str, ModelEntry]:
    build = getattr(segmentation, architecture)
    names = {backbone: f"{architecture}_{backbone}" for backbone in BACKBONES}
    return {
        name: ModelEntry(
            partial(build, backbone), "segmentation", (256, 256), paper, ("auxiliary",)
        )
        for backbone, name in names.items()
        if name not in IMPOSSIBLE
    }


_NO_DILATION = (
    "DeepLabV3+ dilates the last stage of its backbone, and VGG shrinks by pooling, which cannot "
    "be dilated; take a resnet or mobilenet_v2 backbone, or fpn or unet on VGG"
)
IMPOSSIBLE = {"deeplabv3plus_vgg16": _NO_DILATION, "deeplabv3plus_vgg16_bn": _NO_DILATION}
"""Pairs of decoder and backbone that somebody may look for, and why they cannot be."""

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
    "unet_slim": ModelEntry(SlimUNet, "segmentation", (96, 96), "1505.04597", ("width",)),
    **_segmenters("unet", "1505.04597"),
    **_segmenters("fpn", "1612.03144"),
    **_segmenters("pspnet", "1612.01105"),
    **_segmenters("deeplabv3plus", "1802.02611"),
    **_segmenters("fcn", "1411.4038"),
}


def build_model(name: str, num_classes: int, **options: object) -> nn.Module:
    """A fresh network of `MODELS`, randomly initialised from torch's global generator.

    ValueError for a name that is not there, with the nearest ones or the reason, for fewer than one
    class, and for an option that the network does not have.
    """
    if name in IMPOSSIBLE:
        raise ValueError(f"{name} cannot be: {IMPOSSIBLE[name]}")
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


def head_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose outputs are the classes, those of auxiliary heads included."""
    if isinstance(model, Segmenter):
        return model.head_layers()
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    return list(layers[-1:])


def unprunable_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose output channels structured pruning must leave alone: at least the heads."""
    layers = head_layers(model)
    if isinstance(model, CifarResNet):
        layers += model.residual_layers()
    return layers


def drop_auxiliary_heads(model: nn.Module) -> None:
    """Takes off, in place, the heads that only help training."""
    if isinstance(model, Segmenter):
        model.auxiliary = None
