"""Structured pruning: whole channels go, and whole blocks where channels cannot, which leaves a
smaller dense network.

DepGraph (arXiv 2301.12900) finds which layers must lose channels together: those that a residual
sum joins, and those that a concatenated skip feeds.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from fnmatch import fnmatchcase

import torch
import torch_pruning
from torch import Tensor, nn

from training.compress.attention import (
    follow_heads,
    head_layers_of,
    head_ratio,
    layers_that_stay,
)
from training.compress.channel_step import channel_step
from training.compress.depth import going, narrow_stages
from training.errors import RecipeError, TargetNotReached
from training.models import (
    count_macs,
    count_parameters,
    drop_auxiliary_heads,
    entry_of,
    input_channels,
    leave_out,
    structure_of,
    unprunable_layers,
)
from training.models.factory import register_factory
from training.recipes import Recipe
from training.recipes.compress import Prune

log = logging.getLogger(__name__)

# Ratios that are searched, in hundredths. Finer steps cost more trials and move few channels; above
# 0.95 layers have too few channels to learn.
_HUNDREDTHS = range(1, 96)

# Pruning leaves heads alone, so that their classes do not matter.
_ANY_CLASSES = 2

# Leaves the gradients of the loss in a network's parameters.
Backward = Callable[[nn.Module], None]


class ChannelPruner:
    """Removes the least important channels of `network`, in place, in `config.steps` equal steps,
    and before the first one blocks.

    Of each layer, or of all together, `ratio` of the channels go in the end, and of each stage of
    `blocks` (names in the order in which they go) `ratio` of the blocks. A channel's importance
    is a mean over all layers that depend on it: of the norms of its weights (arXiv 1608.08710 for
    L1), of the scales of its batch norms (arXiv 1708.06519), or of |weight · gradient| (Taylor, on
    the squared form see arXiv 1906.10771); "random" is for comparison. `backward` is called before
    each step of "taylor". The layers of `kept` (names) keep their outputs.
    """

    def __init__(
        self,
        network: nn.Module,
        config: Prune,
        ratio: float,
        size: tuple[int, int],
        backward: Backward,
        kept: Collection[str] = (),
        blocks: Iterable[Sequence[str]] = (),
    ) -> None:
        self.network = network.eval()
        for order in blocks:
            leave_out(network, going(order, ratio))
        self._backward = backward if config.importance == "taylor" else None
        self._pruner = _build_pruner(network, config, size, kept, ratio)

    def step(self) -> None:
        """Prunes to the next of the equal steps."""
        if self._backward is not None:
            self._backward(self.network)
        self._pruner.step()
        follow_heads(self.network, self._pruner.num_heads)
        self.network.zero_grad()


class _WholeGroups(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
    """Leaves at least `round_to` channels: upstream rounds a narrow layer down to none, refuses to
    prune it then, and a higher ratio would remove less."""

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        left = (current_channels - n_pruned) // round_to * round_to
        return max(0, current_channels - max(left, round_to))


def _build_pruner(
    network: nn.Module,
    config: Prune,
    size: tuple[int, int],
    kept: Collection[str],
    ratio: float,
    **ratios: object,
) -> torch_pruning.pruner.BasePruner:
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    importances: dict[str, Callable[[], torch_pruning.importance.Importance]] = {
        "l1": lambda: torch_pruning.importance.MagnitudeImportance(p=1),
        "l2": lambda: torch_pruning.importance.MagnitudeImportance(p=2),
        "bn_scale": torch_pruning.importance.BNScaleImportance,
        "taylor": torch_pruning.importance.TaylorImportance,
        "random": torch_pruning.importance.RandomImportance,
    }
    named = dict(network.named_modules())
    heads = head_layers_of(network)
    with warnings.catch_warnings():
        # It tells of learned values outside of layers, which stay as they are.
        warnings.simplefilter("ignore")
        # Groups would be torn apart.
        warnings.filterwarnings("error", message="Maximum recursive depth")
        pruner = _WholeGroups(
            network,
            torch.zeros(1, input_channels(network), *size),
            importance=importances[config.importance](),
            global_pruning=config.scope == "global",
            iterative_steps=config.steps,
            round_to=config.round_to,
            ignored_layers=[*unprunable_layers(network), *(named[name] for name in kept)],
            num_heads=heads,
            prune_num_heads=bool(heads),
            prune_head_dims=not heads,
            head_pruning_ratio=head_ratio(heads, ratio),
            pruning_ratio=ratio,
            **ratios,
        )
    pruner.ignored_layers += layers_that_stay(pruner, network)
    return pruner


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


def prunable_groups(network: nn.Module, config: Prune, size: tuple[int, int]) -> list[str]:
    """The groups of layers that lose channels together, each named by its first layer."""
    pruner = _build_pruner(network, config, size, (), 0.0)
    names = {module: name for name, module in network.named_modules()}
    groups = pruner.DG.get_all_groups(
        ignored_layers=pruner.ignored_layers, root_module_types=pruner.root_module_types
    )
    return [names[group[0].dep.target.module] for group in groups]


def with_one_group_pruned(
    network: nn.Module,
    config: Prune,
    group: str,
    ratio: float,
    size: tuple[int, int],
    backward: Backward,
) -> nn.Module:
    """A copy in which `ratio` of the channels of one group is gone."""
    pruned = copy.deepcopy(network).eval()
    alone = config.model_copy(update={"steps": 1, "scope": "uniform", "round_to": 1})
    layer = pruned.get_submodule(group)
    pruner = _build_pruner(
        pruned,
        alone,
        size,
        (),
        0.0,
        pruning_ratio_dict={layer: ratio},
        head_pruning_ratio_dict={layer: head_ratio(head_layers_of(pruned), ratio)},
    )
    if config.importance == "taylor":
        backward(pruned)
    pruner.step()
    follow_heads(pruned, pruner.num_heads)
    return pruned


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
