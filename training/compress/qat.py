"""Quantisation-aware fine-tuning: training with weights and activations rounded as in the INT8
file.

Rounding passes gradients straight through within its range (arXiv 1806.08342, §2.4). Weights are
rounded symmetrically per output channel, inputs of layers symmetrically per tensor, which is the
coarser of the two grids that are exported. Batch norms need not be folded first: a factor on a
channel scales its grid too and changes no rounding. The terms of residual sums, which the file also
rounds, are not simulated. The file itself is exported and calibrated as for any network.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# Steps of the grid from 0 to the largest magnitude: int8 without -128.
_LEVELS = 127
# Weight of the newest batch in the range of an input: larger follows faster, smaller is steadier.
_MOMENTUM = 0.1
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@contextmanager
def fake_quantized(network: nn.Module) -> Iterator[None]:
    """Rounds the weights and inputs of all convolutions and linear layers of `network` inside the
    block. The statistics of its batch norms are frozen, since the served network has those of
    unrounded batches.
    """
    layers = [
        module
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
    ]
    hooks = [
        module.register_forward_pre_hook(_keep_statistics)
        for module in network.modules()
        if isinstance(module, _BATCH_NORMS)
    ]
    for layer in layers:
        axis = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
        parametrize.register_parametrization(layer, "weight", _RoundedWeight(axis))
        layer.register_buffer("input_peak", torch.zeros(()))
        hooks.append(layer.register_forward_pre_hook(_round_input))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
            del layer.input_peak


class _RoundedWeight(nn.Module):
    """Rounds each channel to 255 levels; the outermost lie at its largest magnitude."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, weight: Tensor) -> Tensor:
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        scale = _scale(weight.detach().abs().amax(dim=others))
        zero = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, zero, self.axis, -_LEVELS, _LEVELS
        )


def _round_input(layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    values, *rest = arguments
    values = values.float()
    peak = layer.get_buffer("input_peak")
    seen = values.detach().abs().amax()
    if layer.training:
        peak.copy_(torch.where(peak == 0, seen, torch.lerp(peak, seen, _MOMENTUM)))
    # The range is unknown before the first training batch.
    scale = _scale(torch.where(peak == 0, seen, peak))
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, -_LEVELS - 1, _LEVELS), *rest


def _scale(peak: Tensor) -> Tensor:
    return (peak / _LEVELS).clamp(min=torch.finfo(torch.float32).tiny)


def _keep_statistics(layer: nn.Module, arguments: tuple[Any, ...]) -> None:
    layer.eval()
