"""Cross-layer equalisation (arXiv 1906.04721, §4.1): channels of a tensor whose ranges differ share
one grid in 8 bits, so that the narrow ones get few levels of it. A factor on each channel, taken
from the layer that makes it and given to the layers that read it, makes them alike and changes no
answer in FP32.

The paper balances the weights of two layers, each rounded as a whole. Here each output of a layer
has a grid of its own, so that the layer that makes a tensor loses nothing; the ranges of the tensor
on calibration images are balanced against the columns of the weights that read it (SmoothQuant,
arXiv 2211.10438, eq. 4). How far is decided for each tensor by the noise that both would cause.

ReLU and its kin let factors through. ReLU6 lets none: its bound would lie elsewhere for each
channel, and with one bound for all EfficientNet-Lite0's logits were 10 dB over the error even in
FP32, as images that were not looked at reach further. Sigmoid, SiLU, GELU and hard swish let none
through either; a sum or a concatenation has several makers.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from training.compress.calibration import Feeds, parted, watch
from training.compress.graph.layers import KINDS, Form, Matrix, attributes, form_of

# Operations on each channel that a positive factor passes through.
_PASSING = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool")
# Shares of the ranges' differences that are tried: 0 leaves all as it is, 1 makes ranges equal.
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
# Largest factor between two channels; more would make alike what the images hardly showed, and
# other images would be cut.
_MOST = 1024.0
# Peak over root mean square of a channel, about; it weighs the noise of weights.
_CREST = 3.0
# Peaks and weights below the largest by this factor count as if they were not: a channel that is
# hardly used shall not take a factor for it.
_FLOOR = 4096.0
# The share of the noise that may be left for a tensor to be worth changing.
_WORTH = 0.95


@dataclass(frozen=True)
class Tensor:
    """A tensor whose channels may take factors.

    name: as its readers read it.
    maker: the layer, or the layer norm, that makes it.
    readers: all who read it, with the forms of their weights.
    """

    name: str
    maker: onnx.NodeProto
    readers: tuple[tuple[onnx.NodeProto, Form], ...]


def equalizable(graph: onnx.GraphProto) -> Iterator[Tensor]:
    """The tensors of a graph that can be equalised."""
    known = _Graph(graph)
    for name, readers in known.users.items():
        forms = [known.form(reader, name) for reader in readers]
        read = tuple((r, f) for r, f in zip(readers, forms, strict=True) if f is not None)
        if len(read) < len(readers) or name in known.outputs:
            continue
        maker = known.maker(name)
        if maker is None:
            continue
        images = {node.op_type == "Conv" for node in (maker, *readers)}
        channels = {form.inputs for _, form in read}
        if len(images) == 1 and channels == {known.channels(maker)}:
            yield Tensor(name, maker, read)


def equalize(model: onnx.ModelProto, calibration: Feeds) -> tuple[str, ...]:
    """Equalises the tensors that gain by it, in place; their names. Raises ExportError where the
    network cannot be run on the images."""
    peaks: dict[str, Matrix] = {}
    images = {tensor.name: tensor.maker.op_type == "Conv" for tensor in equalizable(model.graph)}
    if not images:
        return ()

    def take(name: str, values: NDArray[np.float32]) -> None:
        axis = 1 if images[name] else values.ndim - 1
        others = tuple(place for place in range(values.ndim) if place != axis)
        peak = np.abs(values).max(axis=others).astype(np.float64)
        if not np.isfinite(peak).all():
            raise ValueError("holds values that are not finite")
        peaks[name] = np.maximum(peaks.get(name, 0.0), peak)

    with tempfile.TemporaryDirectory() as folder:
        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        watch(parted(copied, Path(folder)), Path(folder), images, calibration, take)
    return tuple(scale(model.graph, peaks))


def scale(graph: onnx.GraphProto, peaks: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """The factor by which each channel is divided now, by tensor that gained by it.

    peaks: the largest magnitude of each channel of a tensor.
    """
    parts = {part.name: part for part in graph.initializer}
    changed = {}
    for tensor in equalizable(graph):
        weights = [numpy_helper.to_array(parts[node.input[1]]) for node, _ in tensor.readers]
        read = [
            form.matrices(weight).reshape(form.groups, -1, form.inputs // form.groups, form.places)
            for (_, form), weight in zip(tensor.readers, weights, strict=True)
        ]
        factors = _best(peaks[tensor.name], read)
        if factors is None:
            continue
        changed[tensor.name] = factors
        for name in tensor.maker.input[1:3]:
            made = numpy_helper.to_array(parts[name])
            shape = [1] * made.ndim
            shape[0 if made.ndim == 1 or _rows_are_outputs(tensor.maker) else 1] = -1
            _put(parts[name], made / factors.reshape(shape))
        for (node, form), matrices in zip(tensor.readers, read, strict=True):
            scaled = matrices * factors.reshape(form.groups, 1, -1, 1)
            _put(parts[node.input[1]], form.weights(scaled.reshape(form.groups, -1, form.columns)))
    return changed


class _Graph:
    """A graph with who makes and who reads each tensor."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.outputs = {value.name for value in graph.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        self._parts = {part.name: part for part in graph.initializer}
        self._makers = {output: node for node in graph.node for output in node.output}
        for node in graph.node:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def form(self, reader: onnx.NodeProto, name: str) -> Form | None:
        """The form of a layer that reads a tensor as its input and has its weights for itself."""
        if reader.op_type not in KINDS or reader.input[0] != name or name in reader.input[1:]:
            return None
        return form_of(reader, self._own(reader.input[1]))

    def _own(self, name: str) -> tuple[int, ...]:
        """The shape of an initialiser that one node reads; () for others."""
        part = self._parts.get(name)
        alone = part is not None and len(self.users[name]) == 1
        return tuple(part.dims) if part is not None and alone else ()

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The layer that makes a tensor, through operations that let factors through."""
        node = self._makers.get(name)
        while node is not None and node.op_type in _PASSING:
            read = node.input[0]
            if len(self.users[read]) > 1 or read in self.outputs or len(node.output) > 1:
                return None
            node = self._makers.get(read)
        if node is None or node.op_type not in ("Conv", "Gemm", "LayerNormalization"):
            return None
        if node.op_type == "LayerNormalization" and attributes(node).get("axis", -1) != -1:
            return None
        whole = len(node.input) == 3 and all(self._own(part) for part in node.input[1:])
        return node if whole else None

    def channels(self, maker: onnx.NodeProto) -> int:
        """Channels of what a layer makes."""
        return int(self._parts[maker.input[2]].dims[-1])


def _rows_are_outputs(maker: onnx.NodeProto) -> bool:
    return maker.op_type != "Gemm" or bool(attributes(maker).get("transB", 0))


def _put(part: onnx.TensorProto, values: NDArray[np.generic]) -> None:
    part.CopyFrom(numpy_helper.from_array(values.astype(np.float32), part.name))


def _best(peak: Matrix, read: Sequence[Matrix]) -> Matrix | None:
    """The factors that leave the least noise; None where there are none better than 1.

    peak: of the channels, [channels].
    read: weights of each reader, [groups, outputs, channels of a group, places].
    """
    energy = [(matrices**2).sum(axis=3) for matrices in read]
    top = [np.abs(matrices).max(axis=3) for matrices in read]
    places = [matrices.shape[3] for matrices in read]
    peak = np.maximum(peak, peak.max() / _FLOOR)
    if not peak.max() > 0:
        return None
    # How near a column comes to the largest weight of any output: it may grow by the rest.
    near = np.max([_nearness(one) for one in top], axis=0)
    tried = [peak**share for share in _SHARES]
    tried += [(peak / np.maximum(near, near.max() / _FLOOR)) ** share for share in _SHARES[1:]]
    tried = [np.maximum(factors / factors.max(), 1 / _MOST) for factors in tried]
    noises = [_noise(factors, peak, energy, top, places) for factors in tried]
    best = int(np.argmin(noises))
    return tried[best] if noises[best] < _WORTH * noises[0] else None


def _nearness(top: Matrix) -> Matrix:
    """[channels]."""
    largest = np.maximum(top.max(axis=2, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray((top / largest).max(axis=1).ravel())


def _noise(
    factors: Matrix,
    peak: Matrix,
    energy: Sequence[Matrix],
    top: Sequence[Matrix],
    places: Sequence[int],
) -> float:
    """Noise over signal in the answers of the readers, when a tensor and their weights are rounded
    to 8 bits."""
    reach = (peak / factors).max()
    power = (peak / _CREST) ** 2
    total = 0.0
    for squares, tops, count in zip(energy, top, places, strict=True):
        groups = len(squares)
        by_group = factors.reshape(groups, 1, -1)
        signal = (squares * power.reshape(groups, 1, -1)).sum()
        of_tensor = reach**2 * (squares * by_group**2).sum()
        inputs = count * (power / factors**2).reshape(groups, -1).sum(axis=1)
        of_weights = ((tops * by_group).max(axis=2) ** 2 * inputs[:, None]).sum()
        total += float((of_tensor + of_weights) / max(signal, np.finfo(np.float64).tiny))
    return total
