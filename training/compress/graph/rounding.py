"""Weights rounded so that the errors of a layer cancel out in its answers, instead of each to its
nearest level.

Column after column of a layer's weights is rounded, and what that takes from its answers is given
to the columns that follow, by the covariance of the layer's inputs on calibration images (GPTQ,
arXiv 2210.17323, §3; for the objective of AdaRound, arXiv 2004.10568, eq. 11). The mean of the
error is left to the bias, see bias_correction.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from training.compress.calibration import Feeds, First, watch
from training.compress.graph.layers import Form, Matrix, Rounded, along, form_of, rounded_layers

Levels = NDArray[np.int8]

# Images whose patches are looked at; more cost time and hardly change what is rounded.
_IMAGES = 128
# Patches of a layer for each of its columns, and at least; fewer leave the covariance to chance.
_PATCHES_A_COLUMN, _LEAST_PATCHES = 4, 4096
# Columns of the largest layer that is rounded so: time grows with their cube, memory with their
# square, and layers of that width round well by themselves.
_WIDEST = 4608
# Bytes of the covariances that are held at a time; less means more runs over the images.
_HELD_BYTES = 1 << 28
# Share of the mean variance that is added to each: larger stays nearer to the nearest levels.
_DAMPING = 0.01
# Columns whose errors are given to all later ones at once.
_BLOCK = 64


class AdaptiveRounding:
    """Rounds the weights of one network, as often as it is quantised. The calibration images are
    looked at when the first file is written.

    model: FP32, with its weights and the shapes of its tensors.
    """

    def __init__(self, model: onnx.ModelProto, calibration: Feeds) -> None:
        self._model = model
        self._calibration = First(calibration, _IMAGES)
        self._known: dict[tuple[str, bytes], Levels] = {}

    def apply(self, rounded: onnx.GraphProto) -> None:
        """Puts other levels in the place of the weights of a quantised graph of this network."""
        weights = {part.name: part for part in self._model.graph.initializer}
        parts = {part.name: part for part in rounded.initializer}
        found: dict[str, _Found] = {}
        layers = list(rounded_layers(rounded, self._model.graph))
        uses = Counter(layer.weight for layer in layers)
        for layer in layers:
            form = form_of(layer.node, tuple(weights[layer.weight].dims))
            # Layers that share their weights have inputs that are not alike.
            alone = uses[layer.weight] == 1
            if form is not None and alone and form.flat and form.columns <= _WIDEST:
                step = numpy_helper.to_array(parts[layer.pair.input[1]]).tobytes()
                found[layer.weight] = _Found(layer, form, (layer.weight, step))
        missing = [one for one in found.values() if one.key not in self._known]
        for held in _held_together(missing):
            for one, covariance in zip(held, self._covariances(held), strict=True):
                whole = numpy_helper.to_array(weights[one.layer.weight])
                self._known[one.key] = _levels(one, whole, covariance, parts)
        for one in found.values():
            part = parts[one.layer.pair.input[0]]
            part.CopyFrom(numpy_helper.from_array(self._known[one.key], part.name))

    def _covariances(self, held: Sequence["_Found"]) -> list[Matrix]:
        """Of the patches that each layer sees, [groups, columns, columns]."""
        random = np.random.default_rng(0)
        readers: dict[str, list[_Sums]] = {}
        sums = [_Sums(one.form, -(-_wanted(one.form) // len(self._calibration))) for one in held]
        for one, its in zip(held, sums, strict=True):
            readers.setdefault(one.layer.read, []).append(its)

        def take(name: str, values: NDArray[np.float32]) -> None:
            for its in readers[name]:
                its.add(values, random)

        with tempfile.TemporaryDirectory() as folder:
            watch(self._model, Path(folder), readers, self._calibration, take)
        return [its.covariance() for its in sums]


class _Found(NamedTuple):
    """A layer that is rounded so. key: its weights and their steps."""

    layer: Rounded
    form: Form
    key: tuple[str, bytes]


class _Sums:
    """Sums over patches of a layer, `places` of each image."""

    def __init__(self, form: Form, places: int) -> None:
        self._form = form
        self._places = places
        self._count = 0
        # Values are counted from the mean of the first batch: squares of large means would hide
        # small variances in float32.
        self._origin: NDArray[np.floating] | None = None
        self._first = np.zeros((form.groups, form.columns))
        self._second = np.zeros((form.groups, form.columns, form.columns), np.float32)

    def add(self, values: NDArray[np.float32], random: np.random.Generator) -> None:
        patches = self._form.patches(values, self._places, random)
        if self._origin is None:
            self._origin = patches.mean(axis=0)
        patches = patches - self._origin
        self._count += len(patches)
        self._first += patches.sum(axis=0, dtype=np.float64)
        by_group = np.ascontiguousarray(patches.transpose(1, 0, 2))
        self._second += by_group.transpose(0, 2, 1) @ by_group

    def covariance(self) -> Matrix:
        mean = self._first / max(1, self._count)
        second = self._second.astype(np.float64) / max(1, self._count)
        return np.asarray(second - mean[:, :, None] * mean[:, None, :])


def _wanted(form: Form) -> int:
    """Patches of a layer."""
    return max(_LEAST_PATCHES, _PATCHES_A_COLUMN * form.columns)


def _held_together(found: Sequence[_Found]) -> Iterator[list[_Found]]:
    """Layers whose covariances are held at a time."""
    held: list[_Found] = []
    filled = 0
    for one in found:
        size = 4 * one.form.groups * one.form.columns**2
        if held and filled + size > _HELD_BYTES:
            yield held
            held, filled = [], 0
        held.append(one)
        filled += size
    if held:
        yield held


def _levels(
    one: _Found, whole: Matrix, covariance: Matrix, parts: Mapping[str, onnx.TensorProto]
) -> Levels:
    """The levels of a layer's weights, in their shape."""
    nearest, scale = (numpy_helper.to_array(parts[name]) for name in one.layer.pair.input[:2])
    steps = along(one.layer.pair, scale.astype(np.float64), whole.ndim)
    exact = one.form.matrices(whole / steps)
    plain = one.form.matrices(nearest)
    # The largest level that the quantiser uses: fewer bits are asked for where sums overflow.
    limit = max(1, int(np.abs(nearest.astype(np.int64)).max()))
    chosen = with_feedback(exact, covariance, limit)
    # Of each output what errs less: of few inputs the nearest levels may be better.
    better = squared_error(exact - chosen, covariance) < squared_error(exact - plain, covariance)
    levels = one.form.weights(np.where(better[:, :, None], chosen, plain))
    return levels.astype(np.int8)


def squared_error(error: Matrix, covariance: Matrix) -> Matrix:
    """The mean square, about its mean, of what weights [groups, outputs, columns] that are off by
    `error` change in a layer's answers, [groups, outputs]."""
    return np.asarray(np.einsum("goi,gij,goj->go", error, covariance, error, optimize=True))


def with_feedback(exact: Matrix, covariance: Matrix, limit: int) -> Matrix:
    """Whole levels for weights in units of their step.

    exact: [groups, outputs, columns].
    covariance: of the inputs, [groups, columns, columns].
    limit: the largest level.
    """
    columns = exact.shape[2]
    spread = np.einsum("gii->gi", covariance).mean(axis=1)
    damping = np.where(spread > 0, _DAMPING * spread, 1.0)
    damped = covariance + damping[:, None, None] * np.eye(columns)
    # Inputs that vary most come first, while there are others left to make up for them.
    order = np.argsort(-np.einsum("gii->gi", damped), axis=1, kind="stable")
    damped = np.take_along_axis(damped, order[:, :, None], axis=1)
    damped = np.take_along_axis(damped, order[:, None, :], axis=2)
    try:
        upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    except np.linalg.LinAlgError:
        # Inputs that vary too differently for these numbers: each weight by itself.
        return np.asarray(np.rint(exact).clip(-limit, limit))
    left = np.take_along_axis(exact, order[:, None, :], axis=2).copy()
    chosen = np.empty_like(left)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        errors = np.empty((*left.shape[:2], end - start))
        for column in range(start, end):
            level = np.clip(np.rint(left[:, :, column]), -limit, limit)
            chosen[:, :, column] = level
            row = upper[:, column, column:end]
            error = (left[:, :, column] - level) / row[:, :1]
            left[:, :, column:end] -= error[:, :, None] * row[:, None, :]
            errors[:, :, column - start] = error
        left[:, :, end:] -= errors @ upper[:, start:end, end:]
    back = np.argsort(order, axis=1)
    return np.asarray(np.take_along_axis(chosen, back[:, None, :], axis=2))
