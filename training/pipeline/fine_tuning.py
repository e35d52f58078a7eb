"""Training as several stages do it: a new network, a run of the loop, the trained network."""

import torch
from torch import nn

from training.fitting.build import Build
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted, fit
from training.models import build_model, count_macs, count_parameters, drop_auxiliary_heads
from training.models.checkpoint import NETWORK_FILE, save_network
from training.models.initialization import initialize
from training.models.weights import load_weights
from training.recipes.train import Train


def new_network(current: Build) -> nn.Module:
    """The recipe's network before training, from the recipe's seed."""
    torch.manual_seed(current.recipe.seed)
    choice = current.recipe.model
    network = build_model(
        choice.architecture,
        current.channels,
        channels=current.recipe.transform.channels,
        **choice.options,
    )
    initialize(network, choice.init)
    if choice.pretrained is not None:
        whole = current.recipe.train is None
        load_weights(network, choice.pretrained, choice.architecture, whole=whole)
    return network


def fine_tune(
    current: Build,
    stage: str,
    network: nn.Module,
    config: Train,
    *,
    part: str = "",
    objective: nn.Module | None = None,
    processes: int = 1,
) -> Fitted:
    """Trains a network on the recipe's data. Checkpoints stay in the stage's folder, those of a
    `part` of the stage's work apart from others. Raises as fit does."""
    return fit(
        network,
        config,
        current.data.train,
        current.data.val,
        task=current.recipe.task,
        classes=current.loss_classes,
        ignore_index=current.data.ignore_index,
        normalization=current.recipe.normalization,
        changes=current.recipe.augment,
        seed=current.recipe.seed,
        folder=current.stage_folder(stage) / part,
        title=f"{stage} {part}".rstrip(),
        objective=objective,
        processes=processes,
        on_epoch=current.on_epoch,
    )


def network_results(current: Build, stage: str, fitted: Fitted) -> Results:
    """Saves a trained network in the stage's folder; gives its curves and its size."""
    drop_auxiliary_heads(fitted.network)
    save_network(fitted.network, current.stage_folder(stage) / NETWORK_FILE)
    return {
        "history": fitted.history,
        "precision": fitted.precision,
        "parameters": count_parameters(fitted.network),
        "macs": count_macs(fitted.network, current.size),
        "images": [len(current.data.train), len(current.data.val)],
    }
