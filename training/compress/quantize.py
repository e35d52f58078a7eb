"""INT8 after training: Q/DQ nodes around the operations that an engine computes in 8 bits.

Weights are symmetric and per channel (arXiv 1806.08342, §3), and biases make up for the rounding
of weights in the mean. Activations come in two forms, because engines differ: "s8", symmetric int8,
which TensorRT requires, and "u8", asymmetric uint8, which is fast in ONNX Runtime on x86.
"""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from training.compress.calibration import Feeds, Method, measure_ranges, parted
from training.compress.graph.bias_correction import correct_biases, give_biases, linear_biases
from training.compress.graph.edges import (
    LAYERS,
    before_layers,
    behind_layers,
    cubic_resizes,
    divisors,
    patches,
    residual_streams,
)
from training.compress.graph.equalization import equalize
from training.compress.graph.rounding import AdaptiveRounding
from training.errors import ExportError

Scheme = Literal["s8", "u8", "u8-rr"]

_ACTIVATIONS = {"s8": QuantType.QInt8, "u8": QuantType.QUInt8, "u8-rr": QuantType.QUInt8}
# The CPU engines gain nothing from 8 bits in normalisations and softmax, and the quantiser cannot
# share the scales of group norms, which are all ones.
_FLOATING = {"InstanceNormalization", "LayerNormalization", "Softmax"}
_OPERATIONS = sorted({*QDQRegistry, *QLinearOpsRegistry} - _FLOATING)


class Quantizer:
    """Makes INT8 forms of one FP32 file; all share the ranges, which are measured once.

    The normalisation before the first layer, everything after the last one, the logits themselves,
    divisors, biases, the residual streams of transformers and their patches stay in floating point.

    equalized: whether channels of a tensor are made alike first, see equalization.
    adaptive: whether weights are rounded so that their errors cancel out, see rounding.
    layers: the names, in the exported network, of the layers that may be INT8, in their order.
    Raises ExportError where the ranges cannot be measured.
    """

    def __init__(
        self,
        float_file: Path,
        calibrate: Method,
        calibration: Feeds,
        *,
        equalized: bool = False,
        adaptive: bool = False,
    ) -> None:
        self._model = onnx.load(float_file)
        give_biases(self._model.graph)
        self.changed = equalize(self._model, calibration) if equalized else ()
        with tempfile.TemporaryDirectory() as folder:
            self._model = parted(self._model, Path(folder))
            add_pre_process_metadata(self._model)
            graph = self._model.graph
            self._biases = linear_biases(graph)
            self._streams, self._patches = residual_streams(graph, self._biases), patches(graph)
            self._edges = (
                before_layers(graph)
                | behind_layers(graph)
                | divisors(graph)
                | cubic_resizes(graph)
                | self._biases
                | self._streams
                | {node.name for node in graph.node if node.op_type not in LAYERS} & self._patches
            )
            rounded = {
                node.name
                for node in graph.node
                if node.op_type in _OPERATIONS and node.name not in self._edges
            }
            self._ranges = measure_ranges(
                self._model, Path(folder), rounded, calibrate, calibration, self.changed
            )
            onnx.load_external_data_for_model(self._model, folder)
        self._nodes: dict[str, list[str]] = {}
        for node in graph.node:
            if node.op_type in LAYERS:
                name = node.input[1].removeprefix("network.").removesuffix(".weight")
                self._nodes.setdefault(name, []).append(node.name)
        self.layers = tuple(self._nodes)
        self.adaptive = adaptive
        self._rounding = AdaptiveRounding(self._model, calibration) if adaptive else None

    def write(self, path: Path, scheme: Scheme, float_layers: Collection[str] = ()) -> None:
        """Writes the file in which all layers but `float_layers` are INT8. Tensors that only
        `float_layers` read are not rounded either. Raises ExportError where the quantiser of ONNX
        Runtime does not know the graph."""
        left = {node for layer in float_layers for node in self._nodes[layer]}
        excluded = self._edges | left | _read_by_only(self._model.graph, left)
        self._write(path, scheme, nodes_to_exclude=sorted(excluded))

    def write_alone(self, path: Path, scheme: Scheme, layer: str) -> None:
        """Writes the file in which only one layer, with its input and output, is INT8: its
        agreement with FP32 is the sensitivity of this layer."""
        self._write(path, scheme, nodes_to_quantize=self._nodes[layer])

    def _write(
        self,
        path: Path,
        scheme: Scheme,
        nodes_to_quantize: Sequence[str] = (),
        nodes_to_exclude: Sequence[str] = (),
    ) -> None:
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        quantizer = QDQQuantizer(
            model,
            per_channel=True,
            reduce_range=scheme == "u8-rr",
            weight_qType=QuantType.QInt8,
            activation_qType=_ACTIVATIONS[scheme],
            tensors_range=self._ranges.data(symmetric=scheme == "s8"),
            nodes_to_quantize=list(nodes_to_quantize),
            nodes_to_exclude=list(nodes_to_exclude),
            op_types_to_quantize=_OPERATIONS,
            extra_options={
                "ActivationSymmetric": scheme == "s8",
                "WeightSymmetric": True,
                # TensorRT dequantises int8 only, and adds biases in floating point.
                "QuantizeBias": scheme != "s8",
                # It would remove those of which a layer in floating point reads the result.
                "QDQKeepRemovableActivations": True,
            },
        )
        try:
            quantizer.quantize_model()
        except (ValueError, RuntimeError) as error:  # of graphs that it does not foresee
            said = " ".join(str(error).split())[:200]
            raise ExportError(f"quantize: ONNX Runtime's quantiser cannot: {said}") from error
        model = quantizer.model.model
        _read_unrounded(model.graph, nodes_to_exclude)
        _remove_needless_pairs(model.graph, self._biases, self._streams, self._patches)
        if self._rounding is not None:
            self._rounding.apply(model.graph)
        correct_biases(model.graph, self._model.graph, self._ranges.means())
        _remove_activations(model.graph)
        quantizer.model.topological_sort()
        _remove_unused_parts(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, path)


def quantize(
    float_file: Path, path: Path, scheme: Scheme, calibrate: Method, calibration: Feeds
) -> None:
    """Writes the INT8 form of an FP32 file. Raises ExportError where its ranges cannot be
    measured."""
    Quantizer(float_file, calibrate, calibration).write(path, scheme)


def _read_by_only(graph: onnx.GraphProto, layers: Collection[str]) -> set[str]:
    """Names of the nodes between layers whose every next layer is one of `layers`."""
    following: dict[str, set[str]] = {}
    names: set[str] = set()
    for node in reversed(graph.node):
        behind = set().union(*(following.get(output, set()) for output in node.output))
        if node.op_type not in LAYERS and behind and behind <= set(layers):
            names.add(node.name)
        for name in node.input:
            reached = {node.name} if node.op_type in LAYERS else behind
            following.setdefault(name, set()).update(reached)
    return names


def _read_unrounded(graph: onnx.GraphProto, nodes: Collection[str]) -> None:
    """Lets layers that stay in floating point read the tensor before a Q/DQ pair of other layers.

    TensorRT refuses a layer with one quantised and one unquantised input.
    """
    makers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type not in LAYERS or node.name not in nodes:
            continue
        for position, name in enumerate(node.input):
            second = makers.get(name)
            if second is not None and second.op_type == "DequantizeLinear":
                node.input[position] = makers[second.input[0]].input[0]
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        used = {name for node in graph.node for name in node.input}
        used |= {value.name for value in graph.output}
        unused = [n for n in graph.node if n.op_type == kind and n.output[0] not in used]
        for node in unused:
            graph.node.remove(node)


def _remove_needless_pairs(
    graph: onnx.GraphProto,
    biases: Collection[str],
    streams: Collection[str],
    patches: Collection[str],
) -> None:
    """Removes five kinds of Q/DQ pairs that only cost accuracy.

    Before a ReLU or ReLU6: most levels would go to values that it then cuts, and TensorRT could not
    fuse the two. Before `biases`, the nodes that add one: they belong to the layer. After the last
    layer: logits in 8 bits save no time, and different logits become equal before the argmax.
    Before `streams`, the nodes of residual streams, and before a softmax. Behind `patches`, see
    there, unless a layer reads them.
    """
    makers = {output: node for node in graph.node for output in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for second in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        first = makers.get(second.input[0])
        maker = makers.get(first.input[0]) if first is not None else None
        if first is None or maker is None:
            continue
        behind = users.get(second.output[0], [])
        before_relu = bool(behind) and all(user.op_type in ("Relu", "Clip") for user in behind)
        is_logits = maker.op_type in LAYERS and not _feeds_layer(second, users)
        before_bias = bool(behind) and all(user.name in biases for user in behind)
        in_stream = bool(behind) and all(
            user.name in streams or user.op_type == "Softmax" for user in behind
        )
        into_layer = any(user.op_type in LAYERS for user in behind)
        is_patches = maker.name in patches and not into_layer
        needless = before_relu or before_bias or is_logits or in_stream or is_patches
        if not needless or len(users[first.output[0]]) > 1:
            continue
        raw, rounded = first.input[0], second.output[0]
        readers, name = behind, raw
        if rounded in outputs:
            # The layer takes over the name of the graph's output, for all who read the layer.
            maker.output[0] = rounded
            readers, name = users[raw], rounded
        for user in readers:
            for position, read in enumerate(user.input):
                if read in (raw, rounded):
                    user.input[position] = name
        graph.node.remove(second)
        graph.node.remove(first)


def _remove_activations(graph: onnx.GraphProto) -> None:
    """Removes each ReLU and ReLU6 of which only a rounding reads the result, to levels that begin
    at the value 0 and end at the upper bound at most: it cuts as they do."""
    parts = {part.name: numpy_helper.to_array(part) for part in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type in ("Relu", "Clip")]:
        behind = readers.get(node.output[0], [])
        if len(behind) != 1 or behind[0].op_type != "QuantizeLinear" or node.output[0] in outputs:
            continue
        step, zero = (parts.get(name) for name in behind[0].input[1:3])
        if step is None or zero is None or zero.dtype != np.uint8 or zero.any():
            continue
        if node.op_type == "Clip":
            low, high, *_ = *(parts.get(name) for name in node.input[1:]), None, None
            if low is None or high is None or low.any() or 255 * step > 1.00001 * high:
                continue
        behind[0].input[0] = node.input[0]
        graph.node.remove(node)


def _remove_unused_parts(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [part for part in graph.initializer if part.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _feeds_layer(node: onnx.NodeProto, users: dict[str, list[onnx.NodeProto]]) -> bool:
    waiting = [node]
    seen: set[str] = set()
    while waiting:
        for output in waiting.pop().output:
            for user in users.get(output, []):
                if user.op_type in LAYERS:
                    return True
                if user.name not in seen:
                    seen.add(user.name)
                    waiting.append(user)
    return False
