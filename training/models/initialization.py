"""The first values of weights."""

from typing import Literal

from torch import nn

Start = Literal["default", "xavier", "kaiming"]


def initialize(network: nn.Module, start: Start) -> None:
    """Draws the weights of convolutions and linear layers anew and sets their biases to 0.

    "xavier" is uniform with variance 2 / (fan in + fan out) (Glorot & Bengio 2010, eq. 16),
    "kaiming" normal with variance 2 / fan in (arXiv 1502.01852, eq. 10), "default" leaves them as
    the network made them.
    """
    if start == "default":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if start == "xavier":
                nn.init.xavier_uniform_(module.weight)
            else:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
