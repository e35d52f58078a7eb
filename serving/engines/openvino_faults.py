"""Networks in 8 bits that OpenVINO 2026.4 computes wrongly, told by its layers and by the file.

tests/serving/engines/test_rounded_operations.py tries each operation: it says what a later release
mends or breaks.
"""

import math
from collections.abc import Callable
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import openvino
from openvino import Node, Type

_8_BITS = (Type.u8, Type.i8)
# Operations inside which a sum or an extreme can hide from a list of the file's operations.
_HIDING = frozenset({"Einsum", "If", "Loop", "TensorIterator"})
# Ways of padding by numbers of the file.
_EXACT = ("explicit", "valid")
# Kernel, stride, dilation, padding before, behind and of the output, along an axis of a transposed
# convolution: those that a thousand random ones of signed values showed no fault of.
_RIGHT_FORMS = {(2, 2, 1, 0, 0, 0), (3, 3, 1, 0, 0, 0), (3, 2, 1, 1, 1, 1), (4, 2, 1, 1, 1, 0)}


def wrong_in_8_bits(compiled: openvino.CompiledModel, file: Path, rows: int) -> str | None:
    """Why OpenVINO would compute this INT8 network wrongly in batches of up to `rows`, or None.

    Some networks that would be right are refused: a compiled layer does not tell its operation, so
    that those of the file count.
    """
    doubtful: set[str] = set()
    for layer in compiled.get_runtime_model().get_ops():
        kind, name = _told(layer, "layerType"), layer.get_friendly_name()
        if kind == "FakeQuantize" and _lost_its_bias(layer.input_value(0).get_node()):
            return f"before {name}, all channels of a convolution get the first one's bias"
        if kind not in ("Reduce", "Pad", "Pooling", "Deconvolution"):
            continue
        takes = layer.get_input_element_type(0)
        if kind == "Reduce":
            gives = layer.get_output_element_type(0)
            if takes in _8_BITS and _rows(layer, rows) > (right := _right_rows(layer)):
                return (
                    f"{name} sums 8-bit tokens of other memory in batches of more than {right:.0f}"
                )
            if takes == Type.u8:
                doubtful |= {"ReduceSum", *_HIDING}
            if takes == Type.f32 and gives == Type.u8:
                doubtful |= {"ReduceMax", "ReduceMin", *_HIDING}
        elif kind == "Deconvolution":
            # Unsigned values are right.
            if takes != Type.u8 and layer.get_input_element_type(1) == Type.i8:
                doubtful.add("ConvolutionBackpropData")
        elif takes in _8_BITS:
            doubtful.add("Pad" if kind == "Pad" else "AvgPool")
    # Most poolings are of maxima, and reading a large file takes a tenth of a second.
    if doubtful == {"AvgPool"} and not _has_averages(file):
        return None
    if not doubtful:
        return None
    found = openvino.Core().read_model(file).get_ops()
    wrong = {
        layer.get_type_name()
        for layer in found
        if layer.get_type_name() in doubtful and _IS_WRONG.get(layer.get_type_name(), _yes)(layer)
    }
    return f"it may get {', '.join(sorted(wrong))} of 8-bit values wrong" if wrong else None


def _has_averages(file: Path) -> bool:
    """Whether an ONNX file has a node of the operation AveragePool: its field 4 says so in text."""
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return content.find(b"\x22\x0bAveragePool") >= 0


def _yes(layer: Node) -> bool:
    return True


def _pads_with_a_level(layer: Node) -> bool:
    """Whether zeros beside the image become the lowest level, which is another value."""
    is_constant = layer.get_attributes()["pad_mode"] == "constant"
    return is_constant and _is_zero_shifted(layer)


def _averages_a_level(layer: Node) -> bool:
    """The same, of a mean that counts the zeros beside the image."""
    told = layer.get_attributes()
    is_padded = told["auto_pad"] not in _EXACT or any([*told["pads_begin"], *told["pads_end"]])
    return is_padded and not told["exclude-pad"] and _is_zero_shifted(layer)


def _is_unusual(layer: Node) -> bool:
    """Whether a transposed convolution may read and write memory of others (signed values), or give
    all channels the first one's bias (strides over 3)."""
    told = layer.get_attributes()
    kernel = [length.get_length() for length in list(layer.get_input_partial_shape(1))[2:]]
    padding = told["pads_begin"], told["pads_end"], told["output_padding"]
    forms = set(zip(kernel, told["strides"], told["dilations"], *padding, strict=True))
    return told["auto_pad"] not in _EXACT or not forms <= _RIGHT_FORMS


_IS_WRONG: dict[str, Callable[[Node], bool]] = {
    "Pad": _pads_with_a_level,
    "AvgPool": _averages_a_level,
    "ConvolutionBackpropData": _is_unusual,
}


def _is_zero_shifted(layer: Node) -> bool:
    """Whether any of the 8-bit values that a layer of the file takes has a zero point that is not
    0: value = (level - zero point) * step."""
    waiting, seen = [layer.input_value(0).get_node()], set()
    while waiting:
        node = waiting.pop()
        name, kind = node.get_friendly_name(), node.get_type_name()
        if name in seen:
            continue
        seen.add(name)
        if kind == "Convert" and node.get_input_element_type(0) in _8_BITS:
            continue
        sources = [port.get_source_output().get_node() for port in node.inputs()]
        if kind == "Subtract" and _is_convert_of_8_bits(sources[0]):
            zero = sources[1]
            if zero.get_type_name() == "Convert":
                zero = zero.input_value(0).get_node()
            if zero.get_type_name() != "Constant" or np.any(zero.get_data()):
                return True
            continue
        waiting += sources
    return False


def _is_convert_of_8_bits(node: Node) -> bool:
    return node.get_type_name() == "Convert" and node.get_input_element_type(0) in _8_BITS


def _rows(reduction: Node, most: int) -> float:
    """How many rows a reduction gets at most. A server that forms no batches passes on what callers
    send, and says that its batches have one row."""
    first = reduction.get_input_partial_shape(0)[0]
    if first.is_static:
        return int(first.get_length())
    return most if most > 1 else math.inf


def _right_rows(reduction: Node) -> float:
    """How many rows a reduction of 8-bit values computes before it begins to read other memory. A
    reduction of three dimensions, [rows, tokens, channels], that scales its results computes one
    where it sums tokens, and as many as there are tokens where it sums channels."""
    taken, given = reduction.get_input_partial_shape(0), reduction.get_output_partial_shape(0)
    scales_results = "," in _told(reduction, "originalLayersNames")
    if taken.rank.is_dynamic or taken.rank.get_length() != 3 or not scales_results:
        return math.inf
    _, tokens, channels = taken
    keeps_tokens = given.rank.get_length() > 1 and given[1] == tokens and tokens != channels
    return int(tokens.get_length()) if keeps_tokens and tokens.is_static else 1


def _lost_its_bias(layer: Node) -> bool:
    """Whether a convolution had a bias in the file and takes none (images, weights and a bias): it
    does not where the batch size is read from its output, as class tokens need it."""
    had_one = layer.get_friendly_name().endswith("/WithoutBiases")
    return _told(layer, "layerType") == "Convolution" and had_one and layer.get_input_size() < 3


def _told(layer: Node, fact: str) -> str:
    """A fact of a compiled layer, in the library's words."""
    return str(layer.get_rt_info()[fact].astype(str))
