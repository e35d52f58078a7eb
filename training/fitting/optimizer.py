"""The optimiser of a recipe."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from training.models.backbone import backbone_parameters
from training.recipes.optimizer import Adadelta, Adagrad, Adam, AdamW, Optimizer, RmsProp, Sgd


def build_optimizer(
    network: nn.Module, config: Optimizer, extra: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """The optimiser of a recipe over a network's parameters and `extra` ones, such as a loss's.

    Vectors (biases, scales and shifts of norm layers) do not decay: pulling them to 0 helps nothing
    (arXiv 1812.01187, §3.1). The first group is one of the head's.
    """
    backbone = set(backbone_parameters(network)) if config.backbone_lr_factor != 1.0 else set()
    trained = [p for p in (*network.parameters(), *extra) if p.requires_grad]
    groups = []
    for part, lr in (
        ([p for p in trained if p not in backbone], config.lr),
        ([p for p in trained if p in backbone], config.lr * config.backbone_lr_factor),
    ):
        decayed = [p for p in part if p.ndim > 1]
        free = [p for p in part if p.ndim <= 1]
        groups.append({"params": decayed, "lr": lr, "weight_decay": config.weight_decay})
        groups.append({"params": free, "lr": lr, "weight_decay": 0.0})
    return _optimizer([group for group in groups if group["params"]], config)


def _optimizer(groups: list[dict[str, Any]], config: Optimizer) -> torch.optim.Optimizer:
    match config:
        case Sgd():
            return torch.optim.SGD(
                groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov
            )
        case AdamW():
            return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)
        case Adam():
            return torch.optim.Adam(groups, lr=config.lr, betas=config.betas)
        case Adagrad():
            return torch.optim.Adagrad(groups, lr=config.lr)
        case RmsProp():
            return torch.optim.RMSprop(
                groups, lr=config.lr, alpha=config.alpha, momentum=config.momentum
            )
        case Adadelta():
            return torch.optim.Adadelta(groups, lr=config.lr, rho=config.rho)
