"""Networks of timm (PyTorch Image Models), by the names that it gives them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import timm
import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.std_conv import (
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from timm.models import byobnet, fastvit, model_entrypoint
from timm.utils.model import reparameterize_model
from torch import nn
from torch.nn import functional

from training.models.architectures import segmentation
from training.models.entry import ModelEntry, Step
from training.recipes.model import TIMM
from training.recipes.timm_settings import timm_config

DECODERS = ("unet", "fpn", "pspnet", "deeplabv3plus", "fcn")
"""Segmentation decoders that take an encoder of timm."""

# Arguments of timm that would read files, download, or contradict the recipe.
_RESERVED = frozenset(
    {
        "cache_dir", "checkpoint_path", "exportable", "features_only", "in_chans", "no_jit",
        "num_classes", "out_indices", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay",
        "scriptable",
    }
)  # fmt: skip

_STANDARDISED = (StdConv2d, StdConv2dSame, ScaledStdConv2d, ScaledStdConv2dSame)
_BRANCHED = (byobnet.MobileOneBlock, byobnet.RepVggBlock, fastvit.MobileOneBlock)

_RESHAPES = "the pruner's graph does not come to an end over the reshapes of its attention"
_PARTS = "it parts its channels, and the pruner mixes up the places of the parts"
_WINDOWS = "the pruner's graph cannot follow how its attention parts the image"
UNSUPPORTED: dict[str, Mapping[Step, str]] = {
    "dpn": {"prune": "its dense paths nest deeper than the pruner's graph follows"},
    "efficientformer_v2": {"prune": _RESHAPES},
    "efficientvit_mit": {"prune": "its attention joins projections of several scales in one layer"},
    "efficientvit_msra": {"prune": _RESHAPES},
    "eva": {"prune": "its attention and gated MLPs hold several projections in one layer each"},
    "fasternet": {"prune": _PARTS},
    "hiera": {"prune": _WINDOWS},
    "mambaout": {"prune": "its blocks split one layer into three parts of fixed widths"},
    "maxxvit": {"prune": _RESHAPES},
    "metaformer": {"prune": "its norm layers have no shift, which the pruner looks for"},
    "mlp_mixer": {"prune": "its MLPs mix places, which the pruner takes for channels"},
    "nfnet": {"prune": "its weights are standardised by layers that the pruner does not know"},
    "pit": {"prune": "it pools tokens as images, whose places the pruner takes for channels"},
    "res2net": {"prune": _PARTS},
    "resnest": {"prune": _RESHAPES},
    "rexnet": {
        "prune": "its blocks add a part of their channels, whose places multiply without end"
    },
    "shvit": {"prune": _PARTS},
    "sknet": {"prune": "it stacks its branches, which the pruner takes for channels"},
    "swin_transformer_v2": {
        "int8": "OpenVINO's INT8 form of its windows answers without rows, or ends the process"
    },
    "tresnet": {"prune": "its filters against aliasing have a fixed number of channels"},
    "twins": {"prune": _WINDOWS},
    "visformer": {"prune": _RESHAPES},
}
"""By timm's module: the steps that its networks cannot take, with the reason."""


def timm_entry(name: str) -> ModelEntry | None:
    """The entry of timm/NAME, or of DECODER_timm/NAME; None for other names. ValueError, with the
    nearest names, for a network that timm does not have."""
    decoder, found, network = name.partition(TIMM)
    if not found or (decoder and decoder.removesuffix("_") not in DECODERS):
        return None
    config = timm_config(network)
    _, height, width = config.input_size
    build: Callable[..., nn.Module] = partial(_classifier, network)
    if decoder:
        build = partial(_segmenter, decoder.removesuffix("_"), network)
    return ModelEntry(
        build,
        "segmentation" if decoder else "classification",
        (height, width),
        str(config.paper_ids or "timm"),
        options=None,
        on_meta=False,
        unsupported=UNSUPPORTED.get(
            model_entrypoint(network.partition(".")[0]).__module__.rpartition(".")[2], {}
        ),
    )


def _classifier(name: str, num_classes: int, fused: bool = False, **options: Any) -> nn.Module:
    network = _made(name, options, num_classes=num_classes)
    return merged(network) if fused else network


def _segmenter(
    decoder: str,
    encoder: str,
    num_classes: int,
    auxiliary: bool = False,
    fused: bool = False,
    **options: Any,
) -> nn.Module:
    _require_allowed(options)
    build = getattr(segmentation, decoder)
    try:
        network: nn.Module = build(f"tu-{encoder}", num_classes, auxiliary, **options)
    except Exception as error:
        raise ValueError(
            f"{TIMM}{encoder} gives no features that {decoder} can read: {_said(error)}"
        ) from error
    return merged(network) if fused else network


def timm_heads(network: Any) -> list[nn.Module]:
    """The convolutions or linear layers of a network's classifiers; empty without classes."""
    classifiers = network.get_classifier()
    found = classifiers if isinstance(classifiers, tuple | list) else [classifiers]
    return [
        layer
        for classifier in found
        if isinstance(classifier, nn.Module)
        for layer in classifier.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]


@torch.no_grad()
def merged(network: nn.Module) -> nn.Module:
    """Puts one convolution in the place of parallel branches (RepVGG arXiv 2101.03697, MobileOne
    2206.04040), and of one that standardises its weights each time, in place, for evaluation; other
    networks stay as they are."""
    for block in network.modules():
        _follow_pruning(block)
    for name, module in list(network.named_modules()):
        if isinstance(module, _STANDARDISED):
            network.set_submodule(name, _with_fixed_weights(module))
    done: nn.Module = reparameterize_model(network.eval(), inplace=True)
    return done


def _with_fixed_weights(conv: Any) -> nn.Conv2d:
    """A convolution with the weights that a standardised one computes (arXiv 1903.10520,
    2101.08692), which engines would compute for each call."""
    kind = Conv2dSame if getattr(conv, "same_pad", False) else nn.Conv2d
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding)
    plain: nn.Conv2d = kind(*sizes, conv.dilation, conv.groups, conv.bias is not None)
    gain = (conv.gain * conv.scale).view(-1) if hasattr(conv, "gain") else None
    rows = conv.weight.reshape(1, conv.out_channels, -1)
    fixed = functional.batch_norm(
        rows, None, None, weight=gain, training=True, momentum=0.0, eps=conv.eps
    )
    plain.weight.copy_(fixed.reshape_as(conv.weight))
    if conv.bias is not None and plain.bias is not None:
        plain.bias.copy_(conv.bias)
    return plain.eval()


def _follow_pruning(block: nn.Module) -> None:
    """Corrects the numbers of channels that a block with branches remembers: pruning knows its
    layers only."""
    if not isinstance(block, _BRANCHED) or block.reparam_conv is not None:
        return
    kxk = block.conv_kxk
    branches = [*kxk] if isinstance(kxk, nn.ModuleList) else [kxk]
    branches.append(getattr(block, "conv_scale", None))
    conv = next((branch.conv for branch in branches if branch is not None), None)
    if conv is not None:
        block.groups = conv.groups
        block.in_chs, block.out_chs = conv.in_channels, conv.out_channels


def _made(name: str, options: Mapping[str, Any], **fixed: Any) -> nn.Module:
    _require_allowed(options)
    try:
        network: nn.Module = timm.create_model(name, **options, **fixed)
    except Exception as error:  # options reach deep into timm, which raises many kinds
        shown = f" with {dict(options)}" if options else ""
        raise ValueError(f"timm cannot make {name}{shown}: {_said(error)}") from error
    return network


def _require_allowed(options: Mapping[str, Any]) -> None:
    if refused := sorted(_RESERVED & options.keys()):
        raise ValueError(f"options: {', '.join(refused)} cannot be set here")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
