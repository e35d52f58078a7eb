"""Which network."""

from collections.abc import Mapping
from typing import Literal

from training.recipes.fields import Strict


class ModelChoice(Strict):
    """A name from `convserve build --list-networks`, and the options that this network has.

    init: how convolutions and linear layers start; "default" is the network's own way, "xavier" and
    "kaiming" are Glorot & Bengio 2010 and He et al. (arXiv 1502.01852).
    pretrained: where its weights begin: a state_dict (.pth, .safetensors), a run folder, or the
    name of torchvision's weights, such as DEFAULT; random without it.
    """

    name: str
    options: Mapping[str, int | float | bool | str] = {}
    init: Literal["default", "xavier", "kaiming"] = "default"
    pretrained: str | None = None
