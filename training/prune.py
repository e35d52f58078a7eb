"""Structured pruning: whole channels go, so that what remains is a smaller dense network.

DepGraph (arXiv 2301.12900) finds which layers must lose channels together.
"""

import logging

import torch
import torch_pruning
from torch import nn

from training.models import count_macs, count_parameters, unprunable_layers
from training.recipe.compress import Prune

log = logging.getLogger(__name__)

_NORM = {"l1": 1, "l2": 2}


def prune(network: nn.Module, config: Prune, size: tuple[int, int]) -> float:
    """Removes the least important channels of `network` in place; gives the share of the
    multiply-accumulates at `size` (height, width) that went.

    A channel's importance is the norm of its weights over all layers that depend on it
    (arXiv 1608.08710 for L1).
    """
    before, parameters = count_macs(network, size), count_parameters(network)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    pruner = torch_pruning.pruner.MagnitudePruner(
        network,
        torch.zeros(1, 3, *size),
        importance=torch_pruning.importance.MagnitudeImportance(p=_NORM[config.importance]),
        pruning_ratio=config.ratio,
        round_to=config.round_to,
        ignored_layers=unprunable_layers(network),
    )
    pruner.step()
    after = count_macs(network, size)
    log.info(
        "prune: %.2f -> %.2f MMACs, %d -> %d parameters",
        before / 1e6, after / 1e6, parameters, count_parameters(network),
    )  # fmt: skip
    return 1 - after / before
