"""Progressive learning: images grow with the epochs (arXiv 2104.00298, §4)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.errors import RecipeError
from training.recipes.train import Progressive

Size = tuple[int, int]

# Sizes of a side that training goes through at least, where its length allows it.
_STEPS = 4


def size_at(config: Progressive, epoch: int, epochs: int, whole: Size) -> Size:
    """Height and width of the images of an epoch, counted from 0."""
    passed = min(1.0, epoch / (config.until * epochs))
    share = config.start + (1 - config.start) * passed
    height, width = (_whole_steps(side, share) for side in whole)
    return height, width


def _whole_steps(side: int, share: float) -> int:
    """A side in steps of a power of two that divides it, as networks halve images."""
    step = 1
    while side % (2 * step) == 0 and side // (2 * step) >= _STEPS:
        step *= 2
    return min(side, max(1, round(side * share / step)) * step)


def shrunk(inputs: Tensor, targets: Tensor, size: Size) -> tuple[Tensor, Tensor]:
    """Images float32 [N, C, H, W] in another size; masks [N, H, W] follow by nearest neighbour,
    other targets stay."""
    if inputs.shape[2:] == size:
        return inputs, targets
    inputs = functional.interpolate(inputs, size, mode="bilinear", antialias=True)
    if targets.ndim == 3:
        masks = functional.interpolate(targets[:, None].float(), size, mode="nearest")
        targets = masks[:, 0].to(targets.dtype)
    return inputs, targets


def check_progressive(network: nn.Module, config: Progressive, channels: int, whole: Size) -> None:
    """Raises RecipeError where a network does not take the smallest images; its mode stays."""
    smallest = size_at(config, 0, 1, whole)
    mode = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, *smallest))
    except Exception as error:  # networks raise errors of many kinds
        height, width = smallest
        said = " ".join(str(error).split())[:200]
        raise RecipeError(
            f"train.progressive: the network takes no images of {height}x{width}, to begin with: "
            f"{said}; take a larger start, or leave the section out"
        ) from error
    finally:
        network.train(mode)
