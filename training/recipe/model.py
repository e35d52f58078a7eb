"""Which network."""

from collections.abc import Mapping

from training.recipe.fields import Strict


class ModelChoice(Strict):
    """A name from `convserve build --list-networks`, and the options that this network has."""

    name: str
    options: Mapping[str, int | float | bool | str] = {}
