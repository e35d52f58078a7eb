"""From torch to an ONNX file, and the proof that the file does what the network does."""

import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from serving.base.evaluation import answer_distance
from serving.base.machine.cpu import core_count
from serving.base.task import IMAGE_INPUT, PROBABILITY_OUTPUT
from serving.base.tensor import Array, TensorSpec
from serving.engines import EngineOptions, load_engine
from serving.engines.engine import Engine
from training.data.readers import Pixels
from training.errors import ExportError, NamesMismatch, ShapesMismatch, ValuesMismatch
from training.models.export.deployed import Deployed, Served, run_deployed

CHECK_ENGINE = "onnxruntime"
# Two kinds of float32 arithmetic differ in the last bits only.
LOGITS_TOLERANCE = 1e-4
# An image is bytes: pixels on a border between classes may fall either way.
MASK_TOLERANCE = 1e-3
CONFIDENCE_TOLERANCE = 0.5

_MAX_BATCH = 4096
# Characters of an error of torch.
_TOLD = 300


def export_onnx(
    deployed: Deployed,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    opset: int,
    path: Path,
) -> None:
    """Writes one self-contained file with a dynamic batch dimension and folded batch norms. Raises
    ExportError where torch cannot export the network."""
    # A batch of two: with one, the exporter would take the batch for a constant.
    example = torch.zeros(2, *inputs[0].shape[1:], dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
    with warnings.catch_warnings():
        # torch warns about its own code; a caller can do nothing about it.
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                deployed,
                (example,),
                path,
                dynamo=True,
                external_data=False,
                opset_version=opset,
                input_names=[IMAGE_INPUT],
                output_names=[spec.name for spec in outputs],
                dynamic_shapes={IMAGE_INPUT: {0: batch}},
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"torch cannot export the network: {_cause(error)}") from error
    _remove_traces(path)


def _cause(error: BaseException) -> str:
    """The first error of a chain, in one line: the later ones say how to report it."""
    while error.__cause__ is not None:
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return " ".join(f"{type(error).__name__}: {error}".split())[:_TOLD] + place


def _remove_traces(path: Path) -> None:
    """The exporter notes source lines at every node: half of a small file, and not its business."""
    model = onnx.load(path)
    del model.metadata_props[:]
    graph = model.graph
    parts: list[Any] = [
        graph,
        *graph.node,
        *graph.value_info,
        *graph.initializer,
        *graph.input,
        *graph.output,
    ]
    for part in parts:
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)


def check_interface(
    path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    """Raises NamesMismatch or ShapesMismatch where a file's tensors are not those promised."""
    engine = _load(path)
    try:
        for kind, promised, real in (
            ("inputs", inputs, engine.inputs),
            ("outputs", outputs, engine.outputs),
        ):
            names, real_names = [s.name for s in promised], [s.name for s in real]
            if names != real_names:
                raise NamesMismatch(f"{path}: {kind}: expected {names}, got {real_names}")
            for want, got in zip(promised, real, strict=True):
                if want != got:
                    raise ShapesMismatch(f"{path}: {kind}: expected {want}, got {got}")
    finally:
        engine.close()


def check_answers(
    path: Path, deployed: Served, outputs: tuple[TensorSpec, ...], images: Pixels
) -> None:
    """Compares a file's answers to uint8 [N, H, W, C] with those of the network that it was made
    of, at batch N and at batch 1.

    Raises ShapesMismatch, or ValuesMismatch where logits or embeddings differ by more than a
    relative 1e-4, masks in more than one pixel of a thousand, or confidences and probabilities by
    more than half a level on average.
    """
    names = tuple(spec.name for spec in outputs)
    engine = _load(path)
    try:
        for batch in (images, images[:1]):
            expected = run_deployed(deployed, names, batch)
            answers = engine.infer({IMAGE_INPUT: np.ascontiguousarray(batch)})
            for name in names:
                _compare(path, name, expected[name], answers[name])
    finally:
        engine.close()


def _compare(path: Path, name: str, expected: Array, got: Array) -> None:
    if expected.shape != got.shape:
        raise ShapesMismatch(
            f"{path}: {name}: expected {list(expected.shape)}, got {list(got.shape)}"
        )
    if name in ("confidence", PROBABILITY_OUTPUT):
        distance = float(np.abs(expected.astype(np.float32) - got.astype(np.float32)).mean())
        tolerance = CONFIDENCE_TOLERANCE
    else:
        distance = answer_distance(expected, got)
        tolerance = MASK_TOLERANCE if name == "mask" else LOGITS_TOLERANCE
    if not distance <= tolerance:
        raise ValuesMismatch(
            f"{path}: {name} differs from torch's by {distance:.3g}, allowed is {tolerance:.3g}"
        )


def _load(path: Path) -> Engine:
    return load_engine(CHECK_ENGINE, path, EngineOptions(threads=core_count()))
