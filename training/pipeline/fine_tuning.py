"""Training as several stages do it: a new network, a run of the loop, the trained network."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import nn

from training.compress.distill import Distillation
from training.errors import RecipeError
from training.fitting.build import Build
from training.fitting.objective import build_objective
from training.fitting.stage_folder import Results
from training.fitting.train import Fitted, fit
from training.models import (
    blueprint_of,
    build_model,
    count_macs,
    count_parameters,
    deployable,
    drop_auxiliary_heads,
    entry_of,
)
from training.models.checkpoint import NETWORK_FILE, save_network
from training.models.export.deployed import output_specs
from training.models.export.to_onnx import check_interface, export_onnx
from training.models.export.variants import FP32_FILE
from training.models.factory import register_factory, user_forward
from training.models.initialization import initialize
from training.models.networks import check_answers
from training.models.weights import load_weights
from training.recipes.compress import FromParent
from training.recipes.deliver import Export
from training.recipes.model import ModelChoice
from training.recipes.tasks import TRAINED_TASKS
from training.recipes.train import Train


def new_network(current: Build) -> nn.Module:
    """The recipe's network before training, from the recipe's seed."""
    torch.manual_seed(current.recipe.seed)
    choice = current.recipe.model
    network = built(current, choice)
    initialize(network, choice.init)
    if choice.pretrained is not None:
        whole = current.recipe.train is None
        load_weights(network, choice.pretrained, choice.architecture, whole=whole)
    return network


def built(current: Build, choice: ModelChoice) -> nn.Module:
    """A network for the build's task, classes and images, without its pretrained weights. Raises
    RecipeError where it is none."""
    register_factory(choice)
    try:
        network = build_model(
            choice.architecture,
            current.channels,
            channels=current.recipe.transform.channels,
            **choice.options,
        )
    except (ValueError, TypeError) as error:
        raise RecipeError(f"model: {error}") from error
    if not entry_of(choice.architecture).on_meta:
        task = TRAINED_TASKS[current.recipe.task].networks
        check_answers(network, choice, task, current.channels, current.size)
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
    with user_forward(current.recipe.model):
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


def from_parent(
    current: Build, network: nn.Module, train: Train, config: FromParent | None, parent: nn.Module
) -> nn.Module | None:
    """The objective of fine-tuning that learns from the network as it was before, of which it takes
    a copy; None where the recipe does not ask for it."""
    if config is None:
        return None
    supervised = build_objective(
        network, train, current.data.train, current.loss_classes, current.data.ignore_index
    )
    return Distillation(
        supervised,
        copy.deepcopy(parent),
        config.temperature,
        config.weight,
        embedding=current.recipe.task == "embedding",
    )


def require_exportable(current: Build, network: nn.Module) -> None:
    """Exports a network whose export no test has tried, before anything is trained. Raises
    ExportError where torch cannot export it, or where its file answers otherwise."""
    if entry_of(blueprint_of(network)[0]).on_meta:
        return
    inputs = current.inputs
    outputs = output_specs(current.recipe.task, current.channels, current.size)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FP32_FILE
        form = current.deployed(deployable(network))
        export_onnx(form, inputs, outputs, Export().opset, file)
        check_interface(file, inputs, outputs)


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
