"""A file as its author meant it to run, with which the files that are made of it are compared."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.export import ExportedProgram

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.machine.cpu import core_count
from serving.base.tensor import Array, TensorSpec, datatype_of
from serving.engines import EngineOptions, load_engine
from training.errors import ExportError
from training.models.archive import is_compressed
from training.models.export.to_onnx import CHECK_ENGINE
from training.models.files.source import read_source
from training.recipes.model import ModelChoice


class Original(Protocol):
    """A loaded file."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name. Raises EngineError."""

    def close(self) -> None: ...


class ExportedOriginal:
    """A program of torch.export, run by torch."""

    def __init__(self, file: Path) -> None:
        program = load_exported(file)
        self._module = program.module()
        signature = program.graph_signature
        tensors = {node.name: node.meta.get("val") for node in program.graph.nodes}
        self.inputs = tuple(_spec(file, name, tensors.get(name)) for name in signature.user_inputs)
        self.outputs = tuple(
            _spec(file, name, tensors.get(str(name))) for name in signature.user_outputs
        )

    @property
    def tensors(self) -> Iterator[Tensor]:
        """Its weights."""
        yield from self._module.parameters()
        yield from self._module.buffers()

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = [torch.from_numpy(inputs[spec.name]) for spec in self.inputs]
        try:
            with torch.inference_mode():
                answers = self._module(*given)
        except Exception as error:  # guards and operators raise anything
            raise EngineError(f"torch: {' '.join(str(error).split())[:300]}") from error
        flat, _ = torch.utils._pytree.tree_flatten(answers)
        return {spec.name: value.numpy() for spec, value in zip(self.outputs, flat, strict=True)}

    def close(self) -> None:
        """Nothing is held."""


def load_exported(file: Path) -> ExportedProgram:
    """Reads a .pt2. Raises ExportError."""
    logger = logging.getLogger("torch.export")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it logs a traceback beside raising the error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if is_compressed(file):
                raise ValueError("is a compressed archive, which torch writes none of")
            program: ExportedProgram = torch.export.load(file)
    except Exception as error:  # zip, JSON, pickle and torch raise errors of their own
        said = " ".join(str(error).split())[:200]
        raise ExportError(
            f"{file}: cannot be read as a program that torch.export.save wrote with torch "
            f"{torch.__version__}: {said}"
        ) from error
    finally:
        logger.setLevel(level)
    return program


def open_original(choice: ModelChoice) -> Original:
    """Loads the file of a recipe. Raises ExportError."""
    if choice.exported is not None:
        return ExportedOriginal(choice.exported)
    if choice.onnx is None:
        raise ValueError("the network comes as no file")
    read_source(choice.onnx)  # refuses all that the runtime should not see
    try:
        return load_engine(CHECK_ENGINE, choice.onnx, EngineOptions(threads=core_count()))
    except EngineUnavailable as error:
        raise ExportError(str(error)) from error


def _spec(file: Path, name: object, value: Any) -> TensorSpec:
    if not isinstance(value, Tensor):
        raise ExportError(f"{file}: {name} is no tensor; expected tensors in and out alone")
    shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)
    datatype = datatype_of(torch.empty(0, dtype=value.dtype).numpy())
    return TensorSpec(str(name), datatype, shape)
