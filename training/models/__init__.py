"""The networks that can be built by name, and the questions that other stages ask of any."""

import contextlib
import copy
import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from timm.models.xception import legacy_xception
from torch import nn
from torchvision import models as torchvision_models
from torchvision.models import GoogLeNet

from training.models.architectures import segmentation
from training.models.architectures.googlenet import googlenet
from training.models.architectures.lenet import LeNet5
from training.models.architectures.resnet_cifar import CifarResNet
from training.models.architectures.segmentation import Segmenter
from training.models.architectures.squeezenet import squeezenet1_1
from training.models.architectures.unet_slim import SlimUNet
from training.models.architectures.vit import vit_b_16
from training.models.attention import NO_PRUNING_WITH_CBAM, attentive
from training.models.blocks import replace_blocks
from training.models.channels import input_channels, take_grey
from training.models.complexity import count_macs, count_parameters
from training.models.entry import STEPS, ModelEntry, Step
from training.models.factory import factory_entry
from training.models.timm_networks import merged, timm_entry, timm_heads
from training.recipes.model import TIMM

__all__ = [
    "MODELS",
    "STEPS",
    "ModelEntry",
    "Step",
    "blueprint_of",
    "build_model",
    "check_input_size",
    "count_macs",
    "count_parameters",
    "deployable",
    "drop_auxiliary_heads",
    "entry_of",
    "head_layers",
    "input_channels",
    "leave_out",
    "left_out",
    "structure_of",
    "unprunable_layers",
    "unsupported_steps",
]


def _classifier(
    build: Callable[..., nn.Module],
    paper: str,
    *tested_as: str,
    side: int = 224,
    smallest_side: int = 1,
) -> ModelEntry:
    return ModelEntry(
        build,
        "classification",
        (side, side),
        paper,
        smallest_side=smallest_side,
        tested_as=tested_as,
    )


def _torchvision(name: str) -> Callable[..., nn.Module]:
    return partial(getattr(torchvision_models, name), weights=None)


def _attentive(entry: ModelEntry) -> ModelEntry:
    return replace(entry, build=partial(attentive, entry.build), options=("attention",))


def _cifar_resnet(depth: int, *tested_as: str) -> ModelEntry:
    entry = _classifier(partial(CifarResNet, depth), "1512.03385", *tested_as, side=32)
    return replace(_attentive(entry), options=("attention", "shortcut"))


def _resnet(name: str, *tested_as: str) -> ModelEntry:
    return _attentive(_classifier(_torchvision(name), "1512.03385", *tested_as))


def _vgg(name: str, *tested_as: str) -> ModelEntry:
    return _attentive(_classifier(_torchvision(name), "1409.1556", *tested_as, smallest_side=32))


def _efficientnet(variant: str, side: int, *tested_as: str) -> ModelEntry:
    build = _torchvision(f"efficientnet_{variant}")
    return _classifier(build, "1905.11946", *tested_as, side=side)


def _segmenters(architecture: str, paper: str) -> dict[str, ModelEntry]:
    build = getattr(segmentation, architecture)
    return {
        name: ModelEntry(
            partial(build, backbone),
            "segmentation",
            (256, 256),
            paper,
            ("auxiliary",),
            tested_as=() if name in tested_as else tuple(x.format(architecture) for x in tested_as),
        )
        for backbone, tested_as in BACKBONES.items()
        if (name := f"{architecture}_{backbone}") not in IMPOSSIBLE
    }


BACKBONES = {
    "resnet18": (),
    "resnet34": ("{}_resnet18", "resnet18"),
    "resnet50": ("{}_resnet18", "resnet50"),
    "vgg16": ("{}_resnet18", "unet_vgg16_bn", "vgg11"),
    "vgg16_bn": ("{}_resnet18", "unet_vgg16_bn"),
    "mobilenet_v2": ("{}_resnet18", "unet_mobilenet_v2"),
}
"""Backbones of the segmentation networks, and the networks whose tests stand for them: each decoder
is tried on ResNet-18, and each kind of backbone under U-Net."""

_NO_DILATION = (
    "DeepLabV3+ dilates the last stage of its backbone, and VGG shrinks by pooling, which cannot "
    "be dilated; take a resnet or mobilenet_v2 backbone, or fpn or unet on VGG"
)
IMPOSSIBLE = {"deeplabv3plus_vgg16": _NO_DILATION, "deeplabv3plus_vgg16_bn": _NO_DILATION}
"""Pairs of decoder and backbone that somebody may look for, and why they cannot be."""

MODELS: dict[str, ModelEntry] = {
    "lenet5": _classifier(LeNet5, "doi:10.1109/5.726791", side=32, smallest_side=32),
    "resnet20_cifar": _cifar_resnet(20),
    "resnet32_cifar": _cifar_resnet(32, "resnet20_cifar"),
    "resnet44_cifar": _cifar_resnet(44, "resnet20_cifar"),
    "resnet56_cifar": _cifar_resnet(56, "resnet20_cifar"),
    "resnet110_cifar": _cifar_resnet(110, "resnet20_cifar"),
    "alexnet": _classifier(_torchvision("alexnet"), "1404.5997", smallest_side=63),
    "vgg11": _vgg("vgg11"),
    "vgg13": _vgg("vgg13", "vgg11"),
    "vgg16": _vgg("vgg16", "vgg11"),
    "vgg19": _vgg("vgg19", "vgg11"),
    "vgg11_bn": _vgg("vgg11_bn"),
    "vgg13_bn": _vgg("vgg13_bn", "vgg11_bn"),
    "vgg16_bn": _vgg("vgg16_bn", "vgg11_bn"),
    "vgg19_bn": _vgg("vgg19_bn", "vgg11_bn"),
    "googlenet": _classifier(googlenet, "1409.4842", smallest_side=15),
    "resnet18": _resnet("resnet18"),
    "resnet34": _resnet("resnet34", "resnet18"),
    "resnet50": _resnet("resnet50"),
    "resnet101": _resnet("resnet101", "resnet50"),
    "resnet152": _resnet("resnet152", "resnet50"),
    "squeezenet1_1": _classifier(squeezenet1_1, "1602.07360", smallest_side=17),
    "mobilenet_v2": _classifier(_torchvision("mobilenet_v2"), "1801.04381"),
    "mobilenet_v3_small": _classifier(_torchvision("mobilenet_v3_small"), "1905.02244"),
    "mobilenet_v3_large": _classifier(
        _torchvision("mobilenet_v3_large"), "1905.02244", "mobilenet_v3_small"
    ),
    "shufflenet_v2_x1_0": replace(
        _classifier(_torchvision("shufflenet_v2_x1_0"), "1807.11164"),
        unsupported={"prune": "the pruner's dependency graph cannot follow the channel shuffle"},
    ),
    "xception": _classifier(legacy_xception, "1610.02357", side=299, smallest_side=7),
    "efficientnet_b0": _efficientnet("b0", 224),
    "efficientnet_b1": _efficientnet("b1", 240, "efficientnet_b0"),
    "efficientnet_b2": _efficientnet("b2", 260, "efficientnet_b0"),
    "efficientnet_b3": _efficientnet("b3", 300, "efficientnet_b0"),
    "efficientnet_b4": _efficientnet("b4", 380, "efficientnet_b0"),
    "vit_b_16": replace(
        _classifier(vit_b_16, "2010.11929", smallest_side=16),
        options=("image_size",),
        unsupported={"prune": "the heads of an attention layer share one projection"},
    ),
    "unet_slim": ModelEntry(SlimUNet, "segmentation", (96, 96), "1505.04597", ("width",)),
    **_segmenters("unet", "1505.04597"),
    **_segmenters("fpn", "1612.03144"),
    **_segmenters("pspnet", "1612.01105"),
    **_segmenters("deeplabv3plus", "1802.02611"),
    **_segmenters("fcn", "1411.4038"),
}


# Where a network keeps the arguments of `build_model`, also in its copies.
_BLUEPRINT = "_convserve_blueprint"
_LEFT_OUT = "left_out"


def entry_of(name: str) -> ModelEntry:
    """The entry of a network: one of `MODELS`, timm/NAME, DECODER_timm/NAME, or a factory that the
    recipe names, module:function. ValueError for other names, with the nearest ones or the reason.
    """
    if name in IMPOSSIBLE:
        raise ValueError(f"{name} cannot be: {IMPOSSIBLE[name]}")
    entry = MODELS.get(name) or factory_entry(name) or timm_entry(name)
    if entry is None:
        near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(MODELS)}"
        raise ValueError(f"unknown model {name!r}; {hint} (networks of timm are timm/NAME)")
    return entry


def build_model(name: str, num_classes: int, *, channels: int = 3, **options: object) -> nn.Module:
    """A fresh network by the name of its entry, randomly initialised from torch's global generator.

    channels: of its images, 3 for RGB or 1 for grey.
    ValueError for a name that is not there, with the nearest ones or the reason, for fewer than one
    class, and for an option that the network does not have. RecipeError for an error of a factory.
    """
    entry = entry_of(name)
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if entry.options is not None and (unknown := sorted(options.keys() - set(entry.options))):
        accepted = ", ".join(entry.options) or "none"
        raise ValueError(f"{name} has no option {', '.join(unknown)}; it accepts: {accepted}")
    network = entry.build(num_classes=num_classes, **options)
    if channels == 1:
        take_grey(network)
        options["channels"] = 1
    network.__dict__[_BLUEPRINT] = (name, num_classes, options)
    return network


def structure_of(name: str, num_classes: int, **options: Any) -> nn.Module:
    """A network by its blueprint, or as build_model makes it, without memory for weights where it
    can be built so."""
    blocks = options.pop(_LEFT_OUT, ())
    with torch.device("meta") if entry_of(name).on_meta else contextlib.nullcontext():
        network = build_model(name, num_classes, **options)
    leave_out(network, blocks)
    return network


def leave_out(network: nn.Module, blocks: Sequence[str]) -> None:
    """Puts the identity in the place of residual blocks of a network of build_model. ValueError
    for a name that is none of residual_blocks."""
    if not blocks:
        return
    replace_blocks(network, blocks)
    name, classes, options = blueprint_of(network)
    options = {**options, _LEFT_OUT: [*left_out(network), *blocks]}
    network.__dict__[_BLUEPRINT] = (name, classes, options)


def left_out(network: nn.Module) -> list[str]:
    """The names of the blocks that a network of build_model does without."""
    return list(blueprint_of(network)[2].get(_LEFT_OUT, ()))


def deployable(network: nn.Module) -> nn.Module:
    """A network in the form that is exported: a copy with parallel branches merged and attention in
    plain products for networks of timm, the network itself for others."""
    name, classes, options = blueprint_of(network)
    if TIMM not in name or ":" in name:
        return network
    form = copy.deepcopy(network)
    if not options.get("fused", False):
        form = merged(form)
        form.__dict__[_BLUEPRINT] = (name, classes, {**options, "fused": True})
    for module in form.modules():
        # Its export reads strides that only one batch size has.
        if "fused_attn" in vars(module):
            vars(module)["fused_attn"] = False
    return form


def blueprint_of(network: nn.Module) -> tuple[str, int, dict[str, Any]]:
    """The arguments of `build_model` that a network came from, and under "left_out" the names of
    the blocks that were left out since. ValueError for another network."""
    blueprint: tuple[str, int, dict[str, Any]] | None = network.__dict__.get(_BLUEPRINT)
    if blueprint is None:
        raise ValueError("the network is none of build_model's")
    return blueprint


def check_input_size(name: str, size: tuple[int, int], **options: object) -> None:
    """ValueError where a network with those options cannot take images of `size`
    (height, width), saying which it takes."""
    entry = entry_of(name)
    if "image_size" in (entry.options or ()):
        side = options.get("image_size", entry.input_size[0])
        if size != (side, side):
            raise ValueError(
                f"{name} takes images of {side}x{side} only, got {size[0]}x{size[1]}; "
                "the option image_size sets another side"
            )
    if min(size) < entry.smallest_side:
        least = entry.smallest_side
        raise ValueError(f"{name} takes images from {least}x{least} on, got {size[0]}x{size[1]}")


def unsupported_steps(name: str, **options: object) -> dict[Step, str]:
    """The steps that a network with those options cannot take, with the reason."""
    steps = dict(entry_of(name).unsupported)
    if options.get("attention") == "cbam":
        steps["prune"] = NO_PRUNING_WITH_CBAM
    return steps


def head_layers(model: nn.Module) -> list[nn.Module]:
    """The layers whose outputs are the classes, those of auxiliary heads included."""
    if isinstance(model, Segmenter):
        return model.head_layers()
    if hasattr(model, "get_classifier"):
        return timm_heads(model)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    last: list[nn.Module] = list(layers[-1:])
    if isinstance(model, GoogLeNet):
        last += [head.fc2 for head in (model.aux1, model.aux2) if head is not None]
    return last


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
    elif isinstance(model, GoogLeNet):
        model.aux_logits, model.aux1, model.aux2 = False, None, None
