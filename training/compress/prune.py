"""Structured pruning: whole channels go, and whole blocks where channels cannot, which leaves a
smaller dense network."""

import copy
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from training.compress.channel_pruner import MOST, Backward, ChannelPruner
from training.compress.channel_step import channel_step
from training.compress.depth import narrow_stages
from training.errors import RecipeError, TargetNotReached
from training.models import (
    count_macs,
    count_parameters,
    drop_auxiliary_heads,
    entry_of,
    input_channels,
    structure_of,
)
from training.models.factory import register_factory
from training.recipes import Recipe
from training.recipes.compress import Prune

log = logging.getLogger(__name__)

# Ratios that are searched, in hundredths. Finer steps cost more trials and move few channels.
_HUNDREDTHS = range(1, round(100 * MOST) + 1)

# Pruning leaves heads alone, so that their classes do not matter.
_ANY_CLASSES = 2


def check_prune(recipe: Recipe) -> None:
    """Raises RecipeError where pruning as a recipe asks for it would remove nothing, whatever the
    network has learnt: an importance that the network lacks, `ignore` that leaves nothing, a ratio
    that rounding takes back. Prunes a network that is not trained, which takes about a second.

    Where weights decide which layers lose channels (scope "global"), only the impossible is refused
    here; require_smaller judges the trained network.
    """
    config = recipe.prune
    if config is None:
        return
    size = recipe.transform.size
    network = _unlearnt(recipe)
    kept = ignored_layers(network, config.ignore)
    step, _ = channel_step(config)
    blocks = narrow_stages(network, step, kept).values() if config.round_to == "auto" else ()
    config = config.model_copy(update={"round_to": step})
    if config.importance == "bn_scale" and not _has_batch_norm(network):
        raise RecipeError(
            "prune.importance: bn_scale reads the scales of batch norms, and "
            f"{recipe.model.architecture} has none; take l1, l2, taylor or random"
        )
    # A taylor ranking would need data; how many channels go does not depend on the ranking.
    importance = "bn_scale" if config.importance == "bn_scale" else "l2"
    once = config.model_copy(update={"steps": 1, "scope": "uniform", "importance": importance})
    uniform = config.ratio is not None and config.scope == "uniform"
    ratio = config.ratio if config.ratio is not None and uniform else _HUNDREDTHS[-1] / 100
    whole = count_parameters(network)
    try:
        ChannelPruner(network, once, ratio, size, lambda pruned: None, kept, blocks).step()
        with torch.no_grad():
            network(torch.zeros(1, input_channels(network), *size))
    except Exception as error:  # the graph of a network that no test knows may fail anywhere
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise RecipeError(
            f"model: {recipe.model.architecture} does not support prune: the pruner's dependency "
            f"graph cannot follow it ({said})"
        ) from error
    if count_parameters(network) >= whole:
        raise RecipeError(f"prune: {_nothing_removed(config, ratio, kept)}")


def _unlearnt(recipe: Recipe) -> nn.Module:
    """The recipe's network with equal weights everywhere, where it can be built without: drawing
    them would take seconds."""
    register_factory(recipe.model)
    name = recipe.model.architecture
    network = structure_of(
        name, _ANY_CLASSES, channels=recipe.transform.channels, **recipe.model.options
    )
    drop_auxiliary_heads(network)
    if not entry_of(name).on_meta:
        return network.eval()
    network.to_empty(device="cpu")
    with torch.no_grad():
        for values in network.state_dict().values():
            values.fill_(1)
    return network


def require_smaller(before: nn.Module, after: nn.Module, config: Prune, ratio: float) -> None:
    """Raises TargetNotReached where pruning has removed nothing."""
    if count_parameters(after) >= count_parameters(before):
        raise TargetNotReached(f"prune: {_nothing_removed(config, ratio, ())}")


def _nothing_removed(config: Prune, ratio: float, kept: Collection[str]) -> str:
    ignored = f", with {len(kept)} layers ignored" if kept else ""
    return (
        f"ratio {ratio:g} removes no channel, importance {config.importance}, scope "
        f"{config.scope}, round_to {config.round_to}{ignored}; a higher ratio, a smaller round_to "
        "or fewer ignored layers may"
    )


def _has_batch_norm(network: nn.Module) -> bool:
    return any(
        isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d) and layer.affine
        for layer in network.modules()
    )


def ignored_layers(network: nn.Module, patterns: Iterable[str]) -> set[str]:
    """Names of the convolutions and linear layers that a recipe's patterns match.

    Raises RecipeError for a pattern that matches none.
    """
    layers = [
        name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    names: set[str] = set()
    for pattern in patterns:
        matched = {name for name in layers if fnmatchcase(name, pattern)}
        if not matched:
            shown = ", ".join(layers[:8]) + (", ..." if len(layers) > 8 else "")
            raise RecipeError(f"prune.ignore: {pattern!r} matches no layer; there are {shown}")
        names |= matched
    return names


def find_ratio(
    network: nn.Module,
    config: Prune,
    size: tuple[int, int],
    backward: Backward,
    kept: Collection[str],
    speedup_of: Callable[[nn.Module], float],
    blocks: Collection[Sequence[str]] = (),
) -> float:
    """The smallest ratio, in hundredths, that reaches the recipe's target, by bisection on copies.

    `speedup_of` measures a network against the unpruned one; it is called for a latency target
    only, once for each structure. Raises TargetNotReached with the best value.
    """
    if config.ratio is not None:
        return config.ratio
    full = count_macs(network, size)
    speedups: dict[int, float] = {}

    def pruned(ratio: float) -> nn.Module:
        candidate = copy.deepcopy(network)
        once = config.model_copy(update={"steps": 1})
        ChannelPruner(candidate, once, ratio, size, backward, kept, blocks).step()
        return candidate

    def reached(ratio: float) -> tuple[bool, str]:
        candidate = pruned(ratio)
        macs = count_macs(candidate, size)
        if config.latency is None:
            return macs <= (config.macs or 0.0) * full, f"{macs / full:.3f} of the MACs stay"
        if macs not in speedups:
            speedups[macs] = speedup_of(candidate) if macs < full else 1.0
        found = speedups[macs]
        return found >= config.latency.speedup, f"{found:.2f}x with {macs / full:.3f} of the MACs"

    low, high = _HUNDREDTHS.start, _HUNDREDTHS.stop - 1
    enough, said = reached(high / 100)
    if not enough:
        target = (
            f"prune.macs: {config.macs}"
            if config.latency is None
            else f"prune.latency.speedup: {config.latency.speedup}"
        )
        raise TargetNotReached(f"{target} cannot be reached; at ratio {high / 100}: {said}")
    while low < high:
        middle = (low + high) // 2
        enough, said = reached(middle / 100)
        log.info("prune: ratio %.2f: %s", middle / 100, said)
        low, high = (low, middle) if enough else (middle + 1, high)
    return high / 100


def gradients(
    network: nn.Module, objective: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> None:
    """Leaves the gradients of an objective (see fit), summed over batches of normalised float32
    NCHW images and their targets, in the parameters; batch norms use their running statistics."""
    network.eval().zero_grad()
    for images, targets in batches:
        objective(network(images), targets, images).backward()


def log_size(before: nn.Module, after: nn.Module, size: tuple[int, int]) -> None:
    """Logs size and arithmetic before and after."""
    log.info(
        "prune: %.2f -> %.2f MMACs, %d -> %d parameters",
        count_macs(before, size) / 1e6, count_macs(after, size) / 1e6,
        count_parameters(before), count_parameters(after),
    )  # fmt: skip
