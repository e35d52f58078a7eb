"""Sensitivity of layers: agreement with the untouched network when one layer alone is pruned or
computed in INT8."""

import logging
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from serving.base.machine.progress import Progress
from training.compress.channel_pruner import Backward, prunable_groups, with_one_group_pruned
from training.compress.quantize import Quantizer
from training.evaluation.validation_trial import Trial
from training.models.export.variants import SCHEMES
from training.recipes.compress import Prune

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sensitivity:
    """The sensitivity of a network's layers.

    title: the change to one layer, for the report.
    images: number of validation images.
    agreement: with the untouched network, by changed layer.
    left_alone: layers that are not pruned because of it.
    """

    title: str
    images: int
    agreement: Mapping[str, float]
    left_alone: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The form that a stage's results keep."""
        return asdict(self)

    def most_sensitive(self) -> list[str]:
        """The layers by the number of answers that they change, largest first."""
        return sorted(self.agreement, key=lambda name: self.agreement[name])


def pruning_sensitivity(
    network: nn.Module,
    config: Prune,
    size: tuple[int, int],
    backward: Backward,
    trial: Trial,
    skipped: Collection[str],
) -> Sensitivity:
    """Prunes each group of layers alone. Groups whose first layer is in `skipped` are passed over.

    Raises ValueError where the recipe has no prune.sensitivity.
    """
    settings = config.sensitivity
    if settings is None:
        raise ValueError("the recipe has no prune.sensitivity section")
    reference = trial.network(network)

    def agreement(group: str) -> float:
        pruned = with_one_group_pruned(network, config, group, settings.ratio, size, backward)
        return trial.compare(reference, trial.network(pruned)).agreement

    groups = [name for name in prunable_groups(network, config, size) if name not in skipped]
    measured = _measured("prune: sensitivity", groups, agreement)
    left = tuple(name for name in groups if measured[name] < settings.min_agreement)
    for name in left:
        log.info("prune: %s is left alone: alone it lowers agreement to %.4f", name, measured[name])
    title = f"{100 * settings.ratio:.0f} % of the channels of one group of layers pruned"
    return Sensitivity(title, len(trial.samples), measured, left)


def int8_sensitivity(
    quantizer: Quantizer, variant: str, agreement: Callable[[Path], float], images: int
) -> Sensitivity:
    """Computes each layer alone in INT8.

    agreement: of a file with FP32, on so many `images`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "alone.onnx"

        def alone(layer: str) -> float:
            quantizer.write_alone(path, SCHEMES[variant], layer)
            return agreement(path)

        measured = _measured(f"quantize: sensitivity of {variant}", quantizer.layers, alone)
    return Sensitivity(f"{variant}: one layer in INT8", images, measured)


def _measured(
    title: str, layers: Sequence[str], agreement: Callable[[str], float]
) -> dict[str, float]:
    measured = {}
    with Progress(title, len(layers), "layers") as progress:
        for layer in layers:
            measured[layer] = agreement(layer)
            progress.advance()
    return measured


def fewest_float_layers(
    order: list[str], most: int, passes: Callable[[Collection[str]], bool]
) -> tuple[str, ...] | None:
    """The shortest beginning of `order` that passes when its layers stay in floating point; None
    where none of at most `most` layers does. Bisection, which assumes that more layers never fail
    where fewer pass."""
    most = min(most, len(order))
    if most <= 0 or not passes(order[:most]):
        return None
    low, high = 1, most
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(order[:middle]) else (middle + 1, high)
    return tuple(order[:high])
