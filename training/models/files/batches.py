"""Files whose batch is fixed, made to take any: exporters write the size of the batch that they
were shown into shapes. The batch must stay the first axis; torch's nn.MultiheadAttention makes it
the second, and such a file is refused unless it was exported with a dynamic batch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from serving.base.errors import EngineError, EngineUnavailable
from serving.base.evaluation import answer_distance
from serving.base.machine.cpu import core_count
from serving.base.tensor import Array
from serving.engines import EngineOptions, load_engine
from training.errors import ExportError
from training.models.export.to_onnx import CHECK_ENGINE

# Two orders of float32 sums differ in the last bits only.
_TOLERANCE = 1e-3
_BATCH = "batch"


def set_input(model: onnx.ModelProto, name: str, image: tuple[int, ...]) -> None:
    """Gives the input `name` the shape [batch, *image], with any batch, in place; shapes that are
    noted elsewhere are taken out, as a runtime infers them anew."""
    graph = model.graph
    del graph.value_info[:]
    for value in graph.input:
        if value.name == name:
            dims = value.type.tensor_type.shape.dim
            dims[0].dim_param = _BATCH
            for dim, size in zip(dims[1:], image, strict=True):
                dim.dim_value = size
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")


def free_shapes(model: onnx.ModelProto, name: str, batch: int) -> None:
    """Takes a batch of `batch` rows out of the constants of a graph of source.prepared, in place:
    targets of Reshape, and tokens that are joined to each image's."""
    graph = model.graph
    constants = {part.name: part for part in graph.initializer}
    added: list[onnx.NodeProto] = []
    for node in list(graph.node):
        if node.op_type == "Reshape" and node.input[1] in constants:
            target = numpy_helper.to_array(constants[node.input[1]]).tolist()
            if not target or target[0] in (-1, 0) or target[0] % batch:
                continue
            target[0] = 0 if -1 in target else -1
            node.input[1] = _constant(graph, f"{node.name}_shape", target)
            if 0 in target:
                # Otherwise a target of 0 would be taken for itself.
                kept = [part for part in node.attribute if part.name != "allowzero"]
                del node.attribute[:]
                node.attribute.extend(kept)
        elif node.op_type == "Concat" and not set(node.input) <= set(constants):
            for position, part in enumerate(node.input):
                dims = list(constants[part].dims) if part in constants else []
                if len(dims) > 1 and dims[0] == batch == 1:
                    node.input[position] = _repeated(graph, added, name, part, dims)
    graph.node.extend(added)
    if added:
        nodes = [*added, *(node for node in graph.node if node not in added)]
        del graph.node[:]
        graph.node.extend(nodes)


def _constant(graph: onnx.GraphProto, name: str, values: list[int]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    return name


def _repeated(
    graph: onnx.GraphProto, added: list[onnx.NodeProto], image: str, part: str, dims: list[int]
) -> str:
    """A constant of one row, repeated for every image of the batch."""
    name = f"{part}_repeated"
    if any(name in node.output for node in added):
        return name
    first = _constant(graph, f"{name}_first", [0])
    rest = _constant(graph, f"{name}_rest", dims[1:])
    added += [
        helper.make_node("Shape", [image], [f"{name}_image"]),
        helper.make_node("Gather", [f"{name}_image", first], [f"{name}_batch"]),
        helper.make_node("Concat", [f"{name}_batch", rest], [f"{name}_shape"], axis=0),
        helper.make_node("Expand", [part, f"{name}_shape"], [name]),
    ]
    for node in added:
        node.name = node.output[0]
    return name


def check_batches(
    path: Path, rows: Array, name: str, expected: Mapping[str, Array], named: str
) -> None:
    """Runs a file on all `rows` at once and on one, and compares with the answers expected of each
    row. Raises ExportError, beginning with `named`."""
    try:
        engine = load_engine(CHECK_ENGINE, path, EngineOptions(threads=core_count()))
    except EngineUnavailable as error:
        raise ExportError(f"{named}: {_refused(str(error))}") from error
    try:
        for part in (rows, rows[:1]):
            found = engine.infer({name: np.ascontiguousarray(part)})
            for output, values in expected.items():
                distance = answer_distance(values[: len(part)], found[output])
                if not distance <= _TOLERANCE:
                    raise ExportError(
                        f"{named}: {_refused(f'{output} differs by {distance:.3g} in a batch')}"
                    )
    except EngineError as error:
        raise ExportError(f"{named}: {_refused(str(error))}") from error
    finally:
        engine.close()


def _refused(reason: str) -> str:
    said = " ".join(reason.split())[:300]
    return (
        f"answers to single images, and not to several at once ({said}); export the network with "
        "a dynamic batch"
    )
