"""The network and its first weights."""

from collections.abc import Mapping
from typing import Literal

from training.recipes.fields import Strict


class ModelChoice(Strict):
    """The network and its first weights.

    name: from `convserve build --list-networks`.
    options: arguments of this network.
    init: initial weights of convolutions and linear layers: "default" is the network's own way,
        "xavier" Glorot & Bengio 2010, "kaiming" He et al. (arXiv 1502.01852).
    pretrained: first weights from a state_dict (.pth, .safetensors), a run folder, or torchvision
        by name, such as DEFAULT; random without it.
    """

    name: str
    options: Mapping[str, int | float | bool | str] = {}
    init: Literal["default", "xavier", "kaiming"] = "default"
    pretrained: str | None = None
