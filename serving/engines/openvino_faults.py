"""Networks that OpenVINO 2026.4 computes wrongly, most of them in 8 bits, told by its layers and by
the file.

tests/serving/engines/test_rounded_operations.py tries each operation: it says what a later release
mends or breaks.
"""

import math
from collections.abc import Callable, Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path

import numpy as np
import openvino
from openvino import Node, Type

_8_BITS = (Type.u8, Type.i8)
# Operations of ONNX that round, and those for which the file is read once more: the compiled
# network does not tell what became of them.
_ROUNDING = frozenset({
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv",
})  # fmt: skip
_AVERAGES = frozenset({"AveragePool", "QLinearAveragePool"})
_SCALES = frozenset({"Mul", "Div"})
# As a file says it: a node's operation is its field 4, an attribute's name its field 1 and its
# whole number its field 3, each behind a byte for the field and, where it is text, its length.
_IN_BYTES = {
    **{
        name: bytes((0x22, len(name))) + name.encode()
        for name in (*_ROUNDING, *_AVERAGES, *_SCALES, "ConvTranspose")
    },
    "ceil_mode": b"\x0a\x09ceil_mode\x18\x01",
}
# Operations inside which others can hide from a list of the file's operations.
_HIDING = frozenset({"If", "Loop", "TensorIterator"})
# Names of operations in ONNX, which users know.
_IN_ONNX = {
    "AvgPool": "AveragePool",
    "ConvolutionBackpropData": "ConvTranspose",
    "GroupConvolutionBackpropData": "ConvTranspose",
}
# Ways of padding by numbers of the file.
_EXACT = ("explicit", "valid")
# Forms of a transposed convolution of signed values, along an axis, of which a thousand random ones
# were right: kernel, stride, dilation, padding before, padding behind, padding of the output.
_RIGHT_FORMS = {(2, 2, 1, 0, 0, 0), (3, 3, 1, 0, 0, 0), (3, 2, 1, 1, 1, 1), (4, 2, 1, 1, 1, 0)}
# Operations above which no constant matters, and those whose own bias is right.
_PRODUCTS = frozenset({
    "Convolution", "ConvolutionBackpropData", "GroupConvolution", "GroupConvolutionBackpropData",
    "MatMul",
})  # fmt: skip
# Operations that move values or take their mean, those of two tensors, and those behind which
# scales are right.
_MOVES = frozenset({
    "AvgPool", "Concat", "DepthToSpace", "Gather", "MaxPool", "Pad", "Reshape", "ShuffleChannels",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "StridedSlice", "Tile", "Transpose", "Unsqueeze",
    "VariadicSplit",
})  # fmt: skip
_OF_TWO = frozenset({"Add", "Divide", "Maximum", "Minimum", "Multiply", "Subtract"})
_BEFORE_RIGHT_SCALES = frozenset({
    "Add", "Convolution", "GroupConvolution", "MVN", "MatMul", "Relu", "Sigmoid", "Subtract",
    "Tanh",
})  # fmt: skip


def fault_of(compiled: openvino.CompiledModel, file: Path, rows: int) -> str | None:
    """Why OpenVINO would compute this network wrongly in batches of up to `rows`, or None.

    Some networks in 8 bits that would be right are refused: where a compiled layer does not tell
    its operation, all of that kind in the file count.
    """
    found = _told_by(file)
    is_rounded = bool(found & _ROUNDING)
    doubtful: set[str] = set()
    if is_rounded:
        for layer in compiled.get_runtime_model().get_ops():
            fault = _fault_of_compiled(layer, rows)
            if fault is not None:
                return fault
            doubtful |= _doubts(layer)
        doubtful |= {"AvgPool"} if found & _AVERAGES else set()
    if found & {*_AVERAGES, "ConvTranspose", "ceil_mode"}:
        doubtful |= _HIDING
    if not doubtful and not found - _ROUNDING - (set() if is_rounded else _SCALES):
        return None
    for layer in openvino.Core().read_model(file).get_ops():
        kind = layer.get_type_name()
        if _pads_otherwise(layer):
            return f"{_IN_ONNX.get(kind, kind)} {_named(layer)} pads otherwise than ONNX defines"
        if is_rounded and kind == "FakeQuantize" and (product := _lost_product(layer)):
            return f"the product with constants {_named(product)} is rounded to 8 bits"
        if kind in doubtful and (kind not in _IS_WRONG or _IS_WRONG[kind](layer)):
            of = "with layers inside" if kind in _HIDING else "of 8-bit values"
            return f"{_IN_ONNX.get(kind, kind)} {of}, {_named(layer)}"
    return None


def _told_by(file: Path) -> set[str]:
    """Those of the operations named above that an ONNX file has, and "ceil_mode" where an attribute
    of that name is 1."""
    with file.open("rb") as opened, mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return {name for name, text in _IN_BYTES.items() if content.find(text) >= 0}


def _fault_of_compiled(layer: Node, rows: int) -> str | None:
    """A fault that a compiled layer shows by itself."""
    kind, name = _told(layer, "layerType"), layer.get_friendly_name()
    if kind == "FakeQuantize" and _lost_its_bias(layer.input_value(0).get_node()):
        return f"before {name}, all channels of a convolution get the first one's bias"
    is_sum = kind == "Reduce" and layer.get_input_element_type(0) in _8_BITS
    if is_sum and _rows(layer, rows) > (right := _right_rows(layer)):
        return f"{name} sums 8-bit tokens of other memory in batches of more than {right:.0f}"
    return None


def _doubts(layer: Node) -> set[str]:
    """Operations of the file, in OpenVINO's names, of which one may be this compiled layer and
    wrong."""
    kind = _told(layer, "layerType")
    if kind not in ("Reduce", "Pad", "Deconvolution"):
        return set()
    takes, gives = layer.get_input_element_type(0), layer.get_output_element_type(0)
    if kind == "Pad":
        return {"Pad"} if takes in _8_BITS else set()
    if kind == "Deconvolution":
        return {"ConvolutionBackpropData"} if takes == Type.i8 else set()
    found: set[str] = set()
    if takes == Type.u8:
        found |= {"ReduceSum", "Einsum", *_HIDING}
    if takes == Type.f32 and gives == Type.u8:
        found |= {"ReduceMax", "ReduceMin", "Einsum", *_HIDING}
    return found


def _pads_otherwise(layer: Node) -> bool:
    """Whether a layer may differ from ONNX in floats, too: a transposed convolution whose padding
    follows from the size of its output, or a pooling with windows that stick out of the padding."""
    kind, told = layer.get_type_name(), layer.get_attributes()
    if kind in ("ConvolutionBackpropData", "GroupConvolutionBackpropData"):
        return told["auto_pad"] not in _EXACT or layer.get_input_size() > 2
    if kind not in ("AvgPool", "MaxPool") or not told["rounding_type"].startswith("ceil"):
        return False
    steps_outside = any(
        stride > 1 and (padding or stride > length)
        for stride, padding, length in zip(
            told["strides"], told["pads_end"], told["kernel"], strict=True
        )
    )
    counts = kind == "AvgPool" and _counts_zeros(layer) and any(one > 1 for one in told["strides"])
    return counts or (kind == "MaxPool" and steps_outside)


def _counts_zeros(mean: Node) -> bool:
    told = mean.get_attributes()
    is_padded = told["auto_pad"] not in _EXACT or any([*told["pads_begin"], *told["pads_end"]])
    return is_padded and not told["exclude-pad"]


def _pads_with_a_level(layer: Node) -> bool:
    """Whether a Pad inserts the level 0 where another level is the value 0."""
    is_constant = layer.get_attributes()["pad_mode"] == "constant"
    return is_constant and any(_is_shifted(node) for node in _above(layer))


def _averages_a_level(layer: Node) -> bool:
    """Whether a mean counts zeros beside the image from which OpenVINO takes or to which it adds a
    constant: it moves zero points and constants behind the mean."""
    above = _above(layer)
    return _counts_zeros(layer) and any(_is_shifted(one) or _adds_a_constant(one) for one in above)


def _is_unusual(layer: Node) -> bool:
    """Whether a transposed convolution of signed values may read and write memory of others."""
    told = layer.get_attributes()
    kernel = [length.get_length() for length in list(layer.get_input_partial_shape(1))[2:]]
    padding = told["pads_begin"], told["pads_end"], told["output_padding"]
    forms = set(zip(kernel, told["strides"], told["dilations"], *padding, strict=True))
    return told["auto_pad"] not in _EXACT or not forms <= _RIGHT_FORMS


# Operations that are right in some forms; others in doubt are wrong in all.
_IS_WRONG: dict[str, Callable[[Node], bool]] = {
    "Pad": _pads_with_a_level,
    "AvgPool": _averages_a_level,
    "ConvolutionBackpropData": _is_unusual,
}


def _lost_product(rounding: Node) -> Node | None:
    """A product with constants by channel that a rounding of the file takes, and of which OpenVINO
    would make its scale, wrongly: constants are negative, or values move in between."""
    waiting: list[tuple[Node, bool]] = [(rounding.input_value(0).get_node(), False)]
    seen = set()
    while waiting:
        node, is_moved = waiting.pop()
        kind = node.get_type_name()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        sources = _sources(node)
        if kind in _MOVES:
            waiting += [(source, True) for source in sources]
        elif kind == "Clamp":
            waiting += [(source, is_moved) for source in sources]
        elif kind in _OF_TWO:
            for source, other in zip(sources, sources[::-1], strict=True):
                constant = _constant(other)
                if constant is None:
                    continue
                if constant.size == 1:
                    waiting.append((source, is_moved))
                elif kind in ("Multiply", "Divide") and _is_lost(constant, source, is_moved):
                    return node
    return None


def _is_lost(scales: np.ndarray, source: Node, is_moved: bool) -> bool:
    """Whether scales by channel are lost between the values that they scale and a rounding."""
    is_right = source.get_type_name() in _BEFORE_RIGHT_SCALES
    is_rounded = _gives_rounded(source) and not is_moved
    return not is_right and not is_rounded and bool(is_moved or np.any(scales < 0))


def _above(layer: Node) -> Iterator[Node]:
    """The nodes of the file whose values reach a layer, back to the nearest ones in 8 bits or of
    products."""
    waiting, seen = [layer.input_value(0).get_node()], set()
    while waiting:
        node = waiting.pop()
        if node.get_friendly_name() in seen:
            continue
        seen.add(node.get_friendly_name())
        yield node
        ends = _is_shifted(node) or _comes_from_8_bits(node) or node.get_type_name() in _PRODUCTS
        if not ends:
            # Shapes are whole numbers.
            floats = (one for one in _sources(node) if one.get_output_element_type(0).is_real())
            waiting += floats


def _is_shifted(node: Node) -> bool:
    """Whether a node takes a zero point that is not 0 from 8-bit levels."""
    if node.get_type_name() != "Subtract" or not _comes_from_8_bits(_sources(node)[0]):
        return False
    zero = _constant(_sources(node)[1])
    return zero is None or bool(np.any(zero))


def _adds_a_constant(node: Node) -> bool:
    """Whether a node adds a constant, other than a bias."""
    if node.get_type_name() not in ("Add", "Subtract"):
        return False
    sources = _sources(node)
    if any(source.get_type_name() in _PRODUCTS for source in sources):
        return False
    added = [_constant(source) for source in sources]
    return any(value is not None and np.any(value) for value in added)


def _gives_rounded(node: Node) -> bool:
    """Whether a node scales levels to values."""
    if node.get_type_name() != "Multiply":
        return False
    levels = _sources(node)[0]
    if levels.get_type_name() == "Subtract":
        levels = _sources(levels)[0]
    return _comes_from_8_bits(levels)


def _comes_from_8_bits(node: Node) -> bool:
    return node.get_type_name() == "Convert" and node.get_input_element_type(0) in _8_BITS


def _sources(node: Node) -> list[Node]:
    return [port.get_source_output().get_node() for port in node.inputs()]


def _constant(node: Node) -> np.ndarray | None:
    """The values of a constant of the file, perhaps of another type or shape; None of others."""
    while node.get_type_name() in ("Convert", "Reshape", "Unsqueeze"):
        node = _sources(node)[0]
    return np.asarray(node.get_data()) if node.get_type_name() == "Constant" else None


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
    """Whether a convolution lost the bias that it had in the file: where the batch size is read
    from its output, as class tokens need it. A transposed one of weights in 8 bits and values in
    floats may have lost it."""
    if _told(layer, "layerType") == "Deconvolution":
        kinds = [layer.get_input_element_type(place) for place in range(layer.get_input_size())]
        return kinds == [Type.f32, Type.i8]
    had_one = layer.get_friendly_name().endswith("/WithoutBiases")
    return _told(layer, "layerType") == "Convolution" and had_one and layer.get_input_size() < 3


def _named(layer: Node) -> str:
    return str(layer.get_friendly_name())[:80]


def _told(layer: Node, fact: str) -> str:
    """A fact of a compiled layer, in the library's words."""
    return str(layer.get_rt_info()[fact].astype(str))
