"""One build under way: where things are, and what more than one stage does."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from training.data import Dataset, load_dataset, load_source
from training.fitting.callbacks import OnEpoch
from training.fitting.stage_folder import Finished, Results
from training.fitting.train import Fitted, fit
from training.models import build_model, count_macs, count_parameters, drop_auxiliary_heads
from training.models.checkpoint import save_network
from training.models.export.deployed import Deployed, input_specs, output_specs
from training.models.export.to_onnx import export_onnx
from training.models.initialization import initialize
from training.models.weights import load_weights
from training.recipes import EmbeddingRecipe, Recipe, SegmentationRecipe
from training.recipes.train import Train

NETWORK_FILE = "network.pt"


@dataclass
class Build:
    """One build: where things are, and what the stages so far have found out."""

    recipe: Recipe
    folder: Path
    repository: Path
    source: Callable[[Recipe], Dataset] = load_source
    on_epoch: OnEpoch | None = None
    done: dict[str, Finished] = field(default_factory=dict)

    @cached_property
    def data(self) -> Dataset:
        """Loaded when the first stage that runs asks for it."""
        return load_dataset(self.recipe, self.source)

    def stage_folder(self, stage: str) -> Path:
        return self.folder / stage

    @property
    def trained_stage(self) -> str:
        """The stage whose network is made small; what the gate compares with."""
        return "train" if self.recipe.distill is None else "distill"

    @property
    def network_stage(self) -> str:
        """The stage whose network is exported."""
        return self.trained_stage if self.recipe.prune is None else "prune"

    @property
    def trained_file(self) -> Path:
        return self.stage_folder(self.trained_stage) / NETWORK_FILE

    @property
    def network_file(self) -> Path:
        return self.stage_folder(self.network_stage) / NETWORK_FILE

    @property
    def exported_file(self) -> Path:
        """The network that is exported: fine-tuning with rounding may have made another one."""
        tuned = self.stage_folder("quantize") / NETWORK_FILE
        if self.recipe.quantize is not None and tuned.exists():
            return tuned
        return self.network_file

    @property
    def size(self) -> tuple[int, int]:
        return self.recipe.transform.size

    @property
    def channels(self) -> int:
        """How many values, for a mask a pixel, the network gives."""
        return network_channels(self.recipe, len(self.data.classes))

    @property
    def told_apart(self) -> int:
        """How many classes a loss sees; of an embedding all people, whatever its size."""
        task = self.recipe.task
        return self.channels if task == "segmentation" else len(self.data.classes)

    def deployed(self, network: nn.Module) -> Deployed:
        return Deployed(network, self.recipe.task, self.recipe.normalization)


def network_channels(recipe: Recipe, classes: int) -> int:
    """How many values, for a mask a pixel, a network gives for data of so many classes."""
    match recipe:
        case EmbeddingRecipe():
            return recipe.embedding_size
        case SegmentationRecipe(binary=True):
            return 1
    return classes


def new_network(current: Build) -> nn.Module:
    """The recipe's network before training, from the recipe's seed."""
    torch.manual_seed(current.recipe.seed)
    choice = current.recipe.model
    network = build_model(choice.name, current.channels, **choice.options)
    initialize(network, choice.init)
    if choice.pretrained is not None:
        load_weights(network, choice.pretrained, choice.name)
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
    `part` of the stage's work apart from others."""
    return fit(
        network,
        config,
        current.data.train,
        current.data.val,
        task=current.recipe.task,
        classes=current.told_apart,
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
    """Saves a trained network in the stage's folder and says what it is."""
    drop_auxiliary_heads(fitted.network)
    save_network(fitted.network, current.stage_folder(stage) / NETWORK_FILE)
    return {
        "history": fitted.history,
        "precision": fitted.precision,
        "parameters": count_parameters(fitted.network),
        "macs": count_macs(fitted.network, current.size),
        "images": [len(current.data.train), len(current.data.val)],
    }


def export_fp32(current: Build, network: nn.Module, path: Path) -> None:
    """Writes a network's FP32 file."""
    export_onnx(
        current.deployed(network),
        input_specs(current.size),
        output_specs(current.recipe.task, current.channels, current.size),
        current.recipe.export.opset,
        path,
    )
