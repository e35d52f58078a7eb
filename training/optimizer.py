"""The optimiser of a recipe."""

import torch
from torch import nn

from training.recipe.optimizer import AdamW, Sgd


def build_optimizer(network: nn.Module, config: Sgd | AdamW) -> torch.optim.Optimizer:
    """The optimiser of a recipe; vectors (biases, scales and shifts of norm layers) do not decay:
    pulling them to 0 helps nothing (arXiv 1812.01187, §3.1)."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    match config:
        case Sgd():
            return torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
            )
        case AdamW():
            return torch.optim.AdamW(groups, lr=config.lr)
