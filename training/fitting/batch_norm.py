"""Statistics of batch norms over many images, in place of the running mean of the last batches
("precise" batch normalisation, arXiv 2105.07576, §3)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """Those that keep statistics."""
    return [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]


@torch.no_grad()
def re_estimate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Gives the batch norms of a network the mean statistics of batches, float32 [N, C, H, W] as
    the network takes them, of about one size. Everything else is as in evaluation: dropout, unlike
    in torch.optim.swa_utils.update_bn, would change the statistics. The network's mode stays."""
    norms = batch_norms(network)
    modes = {module: module.training for module in network.modules()}
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    try:
        for images in batches if norms else ():
            network(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
