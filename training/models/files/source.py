"""Reads ONNX files that others wrote, and brings their graphs into the form that quantisation and
FP16 work on.

Nothing in such a file is trusted: sizes are read before memory is taken, weights beside it must be
plain files of its folder, and every operator must be one of ONNX's own.
"""

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
from onnx import inliner, version_converter

from serving.base.errors import EngineUnavailable, quoted
from serving.base.files import find_file, sha256
from serving.repository.onnx_file import external_files
from training.errors import ExportError, RecipeError
from training.recipes.model import ModelChoice

# Bytes of a graph with its weights: protobuf holds no message of 2 GiB, and Q/DQ nodes and the
# steps around the network come on top.
MAX_BYTES = (1 << 31) - (1 << 26)
# Q/DQ with a scale a channel are of opset 13.
LEAST_OPSET = 13
_QUANTISED = (
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
    "ConvInteger", "MatMulInteger",
)  # fmt: skip
_OWN_DOMAINS = ("", "ai.onnx")
_SAID = 300


def check_file(file: Path) -> None:
    """Raises RecipeError where a network's file is none, and ExportError where it is too large.
    Reads nothing of it."""
    if not file.is_file():
        raise RecipeError(f"model: {file}: no such file")
    _require_size(file, file)


def file_fingerprint(file: Path) -> str:
    """sha256 of an ONNX file and of the files that hold its weights. Raises ExportError."""
    digest = hashlib.sha256()
    for part in (file, *_weights(file)):
        digest.update(sha256(part).encode())
    return digest.hexdigest()


def file_bytes(choice: ModelChoice) -> int:
    """Bytes of the file that a network comes as, and of those that hold its weights. Raises
    ExportError."""
    parts = [path for path in (choice.onnx, choice.exported) if path is not None]
    if choice.onnx is not None:
        parts += _weights(choice.onnx)
    return sum(part.stat().st_size for part in parts)


def read_source(file: Path) -> onnx.ModelProto:
    """The graph of an ONNX file with its weights in it, as its author wrote it, but for functions,
    which are inlined, and weights among the inputs, as older files have them.

    Raises ExportError where it is no sound ONNX file, is too large, is quantised already, has
    operators that are not ONNX's, or takes or gives anything but tensors.
    """
    _weights(file)
    try:
        model = onnx.load(file)
        if model.functions:
            model = inliner.inline_local_functions(model)
        _require_own_operators(file, model)
        _require_tensors(file, model.graph)
        _check(model)
    except ExportError:
        raise
    except Exception as error:  # protobuf, the checker and the inliner raise errors of their own
        raise ExportError(f"{file}: is no sound ONNX file: {_said(error)}") from error
    _drop_weights_among_inputs(model.graph)
    return model


def prepared(file: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of `read_source` as quantisation and FP16 take it: of opset 13 at least, constants
    and batch norms folded, every node with a name of its own. Inputs and outputs stay.

    `file` begins every message. Raises ExportError where ONNX cannot convert its opset, or ONNX
    Runtime cannot load it.
    """
    opset = opset_of(model)
    if opset < LEAST_OPSET:
        try:
            model = version_converter.convert_version(model, LEAST_OPSET)
        except Exception as error:  # the converter raises RuntimeError and others
            raise ExportError(
                f"{file}: opset {opset} cannot be converted to {LEAST_OPSET}: {_said(error)}; "
                "export the network anew with a newer opset"
            ) from error
    folded = _folded(file, model)
    _name_nodes(folded.graph)
    return folded


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a graph is written in."""
    return max(part.version for part in model.opset_import if part.domain in _OWN_DOMAINS)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph, those of the graphs inside its nodes included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes_of(inner)


def _weights(file: Path) -> list[Path]:
    """The files that hold a file's weights. Raises ExportError for a file, or a place of weights,
    that cannot be, or where all of them together are too large."""
    try:
        _require_size(file, file)
        needed = external_files(file)
        found = [find_file(file.parent, name) for name in needed]
    except EngineUnavailable as error:
        raise ExportError(str(error)) from error
    except OSError as error:
        raise ExportError(f"{error.filename or file}: {error.strerror or error}") from error
    _require_size(file, file, *found)
    for name, place in zip(needed, found, strict=True):
        size = place.stat().st_size
        if size < needed[name]:
            raise ExportError(
                f"{file}: its weights are cut off: {name} has {size:,} bytes of {needed[name]:,}"
            )
    return found


def _require_size(file: Path, *parts: Path) -> None:
    size = sum(part.stat().st_size for part in parts)
    if size > MAX_BYTES:
        raise ExportError(
            f"{file}: has {size / 1e9:.1f} GB with its weights; at most {MAX_BYTES / 1e9:.1f} GB "
            "can be quantised and published"
        )


def _require_own_operators(file: Path, model: onnx.ModelProto) -> None:
    found = list(nodes_of(model.graph))
    foreign = Counter(
        f"{node.domain}.{node.op_type}" for node in found if node.domain not in _OWN_DOMAINS
    )
    if foreign:
        listed = ", ".join(sorted(foreign)[:5])
        hint = (
            "; it was optimised for ONNX Runtime: give the file from before that"
            if all(name.startswith("com.microsoft") for name in foreign)
            else ""
        )
        raise ExportError(f"{file}: operators that are not ONNX's own: {listed[:_SAID]}{hint}")
    quantised = Counter(node.op_type for node in found if node.op_type in _QUANTISED)
    if quantised:
        listed = ", ".join(f"{count} {name}" for name, count in quantised.items())
        raise ExportError(
            f"{file}: is quantised already ({listed}); give the file in floating point"
        )


def _require_tensors(file: Path, graph: onnx.GraphProto) -> None:
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            held = value.type.WhichOneof("value")
            if held != "tensor_type":
                what = str(held or "of no type").removesuffix("_type").replace("_", " ")
                raise ExportError(f"{file}: {kind} {quoted(value.name)} is no tensor but {what}")
            if kind == "input" and not value.type.tensor_type.HasField("shape"):
                raise ExportError(
                    f"{file}: input {quoted(value.name)} has any number of dimensions; expected a "
                    "fixed number"
                )


def _check(model: onnx.ModelProto) -> None:
    """Runs ONNX's checker. It insists on the shapes of outputs, which no runtime needs and some
    exporters leave out."""
    tensors = [value.type.tensor_type for value in model.graph.output]
    untold = [tensor for tensor in tensors if not tensor.HasField("shape")]
    for tensor in untold:
        tensor.shape.SetInParent()
    onnx.checker.check_model(model)
    for tensor in untold:
        tensor.ClearField("shape")


def _drop_weights_among_inputs(graph: onnx.GraphProto) -> None:
    constants = {part.name for part in graph.initializer}
    taken = [value for value in graph.input if value.name not in constants]
    del graph.input[:]
    graph.input.extend(taken)


def _folded(file: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph after those of ONNX Runtime's passes that keep to ONNX's operators."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="weights")
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        try:
            onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the binding raises its own unrelated types
            raise ExportError(f"{file}: ONNX Runtime cannot load it: {_said(error)}") from error
        folded = onnx.load(options.optimized_model_filepath)
    # The runtime lists every operator set that it knows.
    own = [part for part in folded.opset_import if part.domain in _OWN_DOMAINS]
    del folded.opset_import[:]
    folded.opset_import.extend(own)
    return folded


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Gives every node a name that no other node has: nodes are told apart by them."""
    taken: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:_SAID] or type(error).__name__
