"""The pruner: which layers lose channels together, how many of them go, and which.

DepGraph (arXiv 2301.12900) finds which layers must lose channels together: those that a residual
sum joins, and those that a concatenated skip feeds.
"""

import copy
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from statistics import fmean

import torch
import torch_pruning
from torch import nn

from training.compress.attention import (
    follow_heads,
    head_layers_of,
    head_ratio,
    layers_that_stay,
)
from training.compress.depth import going
from training.models import input_channels, leave_out, unprunable_layers
from training.recipes.compress import Prune

# Above, layers have too few channels to learn.
MOST = 0.95

# Leaves the gradients of the loss in a network's parameters.
Backward = Callable[[nn.Module], None]


def share_at(network: nn.Module, ratio: float, tilt: float) -> Callable[[str], float]:
    """The share of its channels that a layer loses, or of its blocks that a stage loses, by the
    name of the layer or of a block: ratio · (1 + tilt · x), x from -1 at the network's first layer
    to 1 at its last; at most MOST."""
    layers = [
        name for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)
    ]

    def share(name: str) -> float:
        place = next(
            (n for n, one in enumerate(layers) if f"{one}.".startswith(f"{name}.")), len(layers) / 2
        )
        x = 2 * place / max(1, len(layers) - 1) - 1
        return min(max(0.0, ratio * (1 + tilt * x)), MOST) if tilt else ratio

    return share


class ChannelPruner:
    """Removes the least important channels of `network`, in place, in `config.steps` equal steps,
    and before the first one blocks.

    Of each layer, or of all together, `ratio` of the channels go in the end, and of each stage of
    `blocks` (names in the order in which they go) `ratio` of the blocks; with a tilt what share_at
    gives their place. A channel's importance is a mean over all layers that depend on it: of the
    norms of its weights (arXiv 1608.08710 for L1), of the scales of its batch norms (arXiv
    1708.06519), or of |weight · gradient| (Taylor, on the squared form see arXiv 1906.10771);
    "random" is for comparison. `backward` is called before each step of "taylor". The layers of
    `kept` (names) keep their outputs. `left_out` holds the names of the blocks that went.
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
        share = share_at(network, ratio, config.tilt)
        self.left_out = [
            name
            for order in blocks
            if order
            for name in going(order, fmean(share(block) for block in order))
        ]
        leave_out(network, self.left_out)
        self._backward = backward if config.importance == "taylor" else None
        self._pruner = _build_pruner(
            network, config, size, kept, ratio, **_tilted(network, config, size, kept, ratio)
        )

    def step(self) -> None:
        """Prunes to the next of the equal steps."""
        if self._backward is not None:
            self._backward(self.network)
        self._pruner.step()
        follow_heads(self.network, self._pruner.num_heads)
        self.network.zero_grad()


def _tilted(
    network: nn.Module, config: Prune, size: tuple[int, int], kept: Collection[str], ratio: float
) -> dict[str, dict[nn.Module, float]]:
    """The ratios of groups that lose another share than `ratio`, as the library takes them."""
    if config.tilt == 0:
        return {}
    share = share_at(network, ratio, config.tilt)
    heads = head_layers_of(network)
    # A group is known by its first layer.
    shares = {
        network.get_submodule(name): share(name) for name in _groups(network, config, size, kept)
    }
    return {
        "pruning_ratio_dict": shares,
        "head_pruning_ratio_dict": {
            layer: head_ratio(heads, share) for layer, share in shares.items() if layer in heads
        },
    }


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


def prunable_groups(network: nn.Module, config: Prune, size: tuple[int, int]) -> list[str]:
    """The groups of layers that lose channels together, each named by its first layer."""
    return _groups(network, config, size, ())


def _groups(
    network: nn.Module, config: Prune, size: tuple[int, int], kept: Collection[str]
) -> list[str]:
    pruner = _build_pruner(network, config, size, kept, 0.0)
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
