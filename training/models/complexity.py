"""Size and arithmetic of a network: parameters and multiply-accumulates."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.models.channels import input_channels


def count_parameters(model: nn.Module) -> int:
    """Learnable values, shared ones once; running statistics of batch normalisation are not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions and matrix products, those of attention included, for
    one image.

    FLOPs are twice as many. `input_size` is (height, width) in pixels; one float32 zero image
    [1, C, height, width] passes through `model` on its own device, in evaluation mode, without
    gradients. Weights, statistics and the mode of every module are left as they were. Biases,
    normalisation, activations and pooling are not counted, as is customary in papers.
    """
    parameter = next(model.parameters())
    channels = input_channels(model)
    image = torch.zeros(1, channels, *input_size, device=parameter.device, dtype=torch.float32)
    modes = {module: module.training for module in model.modules()}
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        # The counter asks for the gradients of a layer's input, and views of learned tokens have
        # none without gradients.
        for parameter in learning:
            parameter.requires_grad_(False)
        # Fused attention is one operator, which the counter does not know on CPUs.
        torch.backends.mha.set_fastpath_enabled(False)
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for parameter in learning:
            parameter.requires_grad_(True)
        for module, training in modes.items():
            module.training = training
    return counter.get_total_flops() // 2
