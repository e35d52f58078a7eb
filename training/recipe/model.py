"""Which network."""

from collections.abc import Mapping

from training.recipe.fields import Strict


class ModelChoice(Strict):
    """A name from `convserve build --list-networks`, and the options that this network has.

    pretrained: where its weights begin: a state_dict (.pth, .safetensors), a run folder, or the
    name of torchvision's weights, such as DEFAULT; random without it.
    """

    name: str
    options: Mapping[str, int | float | bool | str] = {}
    pretrained: str | None = None
