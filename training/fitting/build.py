"""One build under way, as the work of its stages sees it: the files, the recipe, and the
findings of the stages before.

It stands this low because compress and evaluation take one; the pipeline makes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import nn

from serving.base.tensor import TensorSpec
from serving.repository.manifest import Normalization
from training.data import Dataset
from training.data.class_names import as_classes_of, read_class_names
from training.fitting.callbacks import OnEpoch
from training.fitting.stage_folder import Finished
from training.models import deployable
from training.models.checkpoint import NETWORK_FILE, load_network
from training.models.export.deployed import Deployed, Served, input_specs, output_specs
from training.models.export.to_onnx import export_onnx
from training.models.files.network import FileNetwork
from training.recipes import Recipe

Network = nn.Module | FileNetwork


@dataclass(frozen=True)
class Build:
    """One build.

    recipe: in a stage's work the sections that its key, or one before it, holds; reading another
        raises AttributeError.
    folder: the run folder; each stage has a folder of its name in it.
    repository: the model repository.
    load: gives the data, loaded once for all stages.
    on_epoch: told of each epoch of the train stage.
    done: the stages that are finished, in their order.
    """

    recipe: Recipe
    folder: Path
    repository: Path
    load: Callable[[], Dataset]
    on_epoch: OnEpoch | None = None
    done: dict[str, Finished] = field(default_factory=dict)

    @cached_property
    def data(self) -> Dataset:
        """Loaded when the first stage that runs asks for it, with the network's classes."""
        names = self.recipe.model.classes
        data = self.load()
        return (
            data
            if names is None
            else as_classes_of(data, read_class_names(names), f"model.classes: {names}")
        )

    def stage_folder(self, stage: str) -> Path:
        return self.folder / stage

    @property
    def trained_stage(self) -> str:
        """The stage whose network is made small; the gate compares with it."""
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
        """Height and width of the images that the network sees."""
        return self.recipe.transform.size

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs of its files."""
        return input_specs(self.size, self.recipe.transform.channels)

    @property
    def channels(self) -> int:
        """Values of the network's answer, for masks a pixel."""
        return self.recipe.channels(len(self.data.classes))

    @property
    def loss_classes(self) -> int:
        """Classes that the loss compares."""
        return self.recipe.loss_classes(len(self.data.classes))

    @property
    def normalization(self) -> Normalization:
        """That of the pixels, which the file of every variant computes."""
        taken = self._taken
        return self.recipe.normalization if taken is None else taken.description.normalization

    def network(self, file: Path) -> Network:
        """The network in a file of the run folder; where the recipe names a file, the network that
        the train stage took from there. Raises BuildError."""
        return self._taken or load_network(file)

    @cached_property
    def _taken(self) -> FileNetwork | None:
        if self.recipe.model.file is None:
            return None
        folder = self.stage_folder("train")
        return FileNetwork(folder, self.recipe.model, self.recipe.task, self.channels, self.size)

    def served(self, network: Network) -> Served:
        """A network as its answers are to be."""
        return network if isinstance(network, FileNetwork) else self.deployed(network)

    def deployed(self, network: nn.Module) -> Deployed:
        return Deployed(network, self.recipe.task, self.recipe.normalization)


def export_fp32(current: Build, network: Network, path: Path) -> None:
    """Writes a network's FP32 file, with parallel branches merged. Raises ExportError where torch
    cannot export the network."""
    if isinstance(network, FileNetwork):
        path.write_bytes(network.file.read_bytes())
        return
    export_onnx(
        current.deployed(deployable(network)),
        current.inputs,
        output_specs(current.recipe.task, current.channels, current.size),
        current.recipe.export.opset,
        path,
    )
