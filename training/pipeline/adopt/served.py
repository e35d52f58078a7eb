"""Reads the model of a repository that is to be adopted, and says why one cannot be."""

import math
from dataclasses import dataclass
from pathlib import Path

import onnx

from serving.base.errors import ModelLoadError
from serving.base.tensor import TensorSpec
from serving.engines import describe
from serving.models.loading.config_completion import read_config
from serving.repository.layout import NO_MODEL, scan_model
from serving.repository.manifest import Manifest, read_manifest
from serving.repository.model_config import ModelConfig, check_against_engine
from serving.repository.model_file import check_model_file, find_in_version
from training.errors import ExportError
from training.models.files.source import nodes_of, read_source

# Stands in the manifests that are written here, in the place of a recipe's name.
RECIPE = "adopt"

# Operators whose inner graphs neither the quantiser nor the FP16 pass looks into.
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")


@dataclass(frozen=True)
class ServedModel:
    """One version of a model as its repository serves it.

    path: the model's folder.
    file: the network's ONNX file, which stays as it is.
    graph: its content.
    former: the manifest of an earlier adoption; None where there is none.
    """

    path: Path
    config: ModelConfig
    version: int
    file: Path
    graph: onnx.ModelProto
    former: Manifest | None

    @property
    def folder(self) -> Path:
        """The version's folder."""
        return self.path / str(self.version)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs as config.pbtxt declares them."""
        return self.config.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs as config.pbtxt declares them."""
        return self.config.outputs

    @property
    def batches(self) -> bool:
        """Whether the first dimension of every tensor is the batch."""
        return self.config.max_batch_size > 0

    @property
    def parameters(self) -> int:
        """The number of floating-point weights."""
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
        parts = self.graph.graph.initializer
        return sum(math.prod(part.dims) for part in parts if part.data_type in floats)

    def no_precision_but_float(self) -> str:
        """Why the network has no INT8 or FP16 form; empty where nothing is known against it."""
        found = {node.op_type for node in nodes_of(self.graph.graph)} & set(_CONTROL_FLOW)
        if found:
            return f"its control flow ({', '.join(sorted(found))}) holds graphs that stay in FP32"
        return ""


def read_served(path: Path, version: int | None) -> ServedModel:
    """The newest version that the config selects, or the named one. Raises ExportError with the
    reason, in one line, where it cannot be adopted."""
    if not path.is_dir():
        raise ExportError(f"{path}: no such folder; expected REPOSITORY/MODEL")
    try:
        folder = scan_model(path.absolute())
        config = read_config(folder)
        chosen = _version(path, list(folder.versions), config, version)
        place = path / str(chosen)
        file = place / config.model_file
        _check_config(path, config, file)
        check_model_file(file)
        former = read_manifest(place)
        if former is not None and former.provenance.recipe != RECIPE:
            raise ExportError(
                f"{place}: has a manifest that no adoption wrote: a build's version has its "
                "variants already"
            )
        graph = read_source(find_in_version(place, file.name))
        _check_tensors(file, graph)
        facts = describe(file)
        check_against_engine(config, facts.inputs, facts.outputs, file)
    except ModelLoadError as error:
        if error.detail == NO_MODEL:
            raise ExportError(f"{path}: {NO_MODEL}; expected REPOSITORY/MODEL") from error
        raise ExportError(error.detail) from error
    if not config.inputs or not config.outputs:
        raise ExportError(f"{file}: neither it nor config.pbtxt names its inputs and outputs")
    rows = config.max_batch_size
    for spec in (*facts.inputs, *facts.outputs):
        if rows and spec.shape[:1] != (-1,) and (rows, *spec.shape[:1]) != (1, 1):
            raise ExportError(
                f"{path}: max_batch_size is {rows}, but {spec} of the file has a fixed first "
                "dimension; export it with a free one, or set max_batch_size to 0"
            )
    return ServedModel(path, config, chosen, file, graph, former)


def _version(path: Path, there: list[int], config: ModelConfig, asked: int | None) -> int:
    if asked is not None:
        if asked not in there:
            raise ExportError(f"{path}: no version {asked}; it has {there}")
        return asked
    selected = config.version_policy.select(there)
    if not selected:
        raise ExportError(f"{path}: the version policy selects none of {there}")
    return selected[-1]


def _check_config(path: Path, config: ModelConfig, file: Path) -> None:
    if config.proto.HasField("sequence_batching"):
        raise ExportError(
            f"{path}: sequence_batching: an answer depends on the calls before it, so no sample "
            "can prove a variant"
        )
    if file.suffix != ".onnx":
        raise ExportError(f"{file}: expected an ONNX file; variants are made of nothing else")
    if not file.is_file():
        raise ExportError(f"{file}: not found, or no file")


def _check_tensors(file: Path, graph: onnx.ModelProto) -> None:
    """Raises ExportError for tensors that variants cannot have."""
    for kind, values in (("input", graph.graph.input), ("output", graph.graph.output)):
        for value in values:
            if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
                raise ExportError(
                    f"{file}: {kind} {value.name!r} holds strings, which OpenVINO does not take "
                    "and no sample file holds"
                )
    if not graph.graph.input:
        raise ExportError(f"{file}: has no input")
    names = [value.name for value in (*graph.graph.input, *graph.graph.output)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ExportError(
            f"{file}: {twice[0]!r} is an input and an output, which samples need apart"
        )
    halves = [
        part for part in graph.graph.initializer if part.data_type == onnx.TensorProto.FLOAT16
    ]
    if halves:
        raise ExportError(
            f"{file}: its weights are in FP16 already; give the file in FP32, of which variants "
            "are made"
        )
