"""Size and arithmetic of a network: parameters and multiply-accumulates."""

import torch
from torch import Tensor, nn

from training.models.channels import input_channels


def count_parameters(model: nn.Module) -> int:
    """Learnable values, shared ones once; running statistics of batch normalisation are not."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions, linear layers and attention for one image.

    FLOPs are twice as many. `input_size` is (height, width) in pixels; one float32 zero image
    [1, C, height, width] passes through `model` on its own device, in evaluation mode, without
    gradients. Weights, statistics and the mode of every module are left as they were. Biases,
    normalisation, activations and pooling are not counted, as is customary in papers.
    """
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel_height, kernel_width = module.kernel_size
            per_output = module.in_channels // module.groups * kernel_height * kernel_width
            total += output.numel() * per_output
        elif isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.MultiheadAttention):
            # Query, key, value and output projections, then scores and the sum they weigh.
            images, tokens, width = inputs[0].shape
            total += images * tokens * width * (4 * width + 2 * tokens)

    parameter = next(model.parameters())
    channels = input_channels(model)
    image = torch.zeros(1, channels, *input_size, device=parameter.device, dtype=torch.float32)
    modes = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_hook(add) for module in modes]
    try:
        model.eval()
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return total
