"""The step of channels that engines feel: layers of fewer channels than a kernel computes at a time
are no faster, or slower. Measured here, on 3×3 convolutions, in INT8 as it is served."""

import contextlib
import functools
import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from serving.base.machine.cpu import core_count, machine
from serving.base.task import IMAGE_INPUT
from serving.base.tensor import Array, TensorSpec
from serving.engines import (
    EngineOptions,
    cpu_features,
    engine_version,
    load_engine,
    unavailable_reason,
)
from serving.engines.engine import Engine
from serving.engines.measure import measure_latency, read_cached, write_cached
from training.compress.stopwatch import write_variant
from training.models.export.deployed import input_specs
from training.models.export.variants import precision_of
from training.recipes.compress import Prune
from training.recipes.deliver import VariantId

log = logging.getLogger(__name__)

# The form of INT8 that each engine is served in.
_VARIANTS: dict[str, VariantId] = {"onnxruntime": "int8-u8", "openvino": "int8-s8"}
_STEPS = (8, 16, 32)
# Widths that are timed: all multiples of each step up to 4, or to 2 of the last.
_CHANNELS = (8, 16, 24, 32, 48, 64)
# Share of a step's arithmetic that time must go down by at least. Kernels were seen to save 0.6 and
# more by a step that they feel, 0.35 and less at some width by one that they do not.
_FELT = 0.45
# The network that is timed: convolutions, side of its images, images a call. More make the first
# layer and the call count less, and take longer.
_LAYERS, _SIDE, _BATCH = 8, 32, 32
# Turns of all widths, and seconds for each of them in a turn. Other work on the machine lengthens
# whole turns, of which the shortest counts.
_TURNS, _SECONDS = 5, 0.04
_CACHE = Path("~/.cache/convserve/channels")


@dataclass(frozen=True)
class Curve:
    """Time over width, of a chain of 3×3 convolutions.

    engine, variant: of the measurement.
    milliseconds: of a call, by the number of channels.
    """

    engine: str
    variant: str
    milliseconds: Mapping[int, float]

    def step(self) -> int:
        """The smallest step that is felt at every width; the largest where none is."""
        return next((step for step in _STEPS if self._is_felt(step)), _STEPS[-1])

    def _is_felt(self, step: int) -> bool:
        widths = [width for width in self.milliseconds if width % step == 0]
        return all(
            1 - self.milliseconds[narrow] / self.milliseconds[wide]
            >= _FELT * (1 - (narrow / wide) ** 2)
            for narrow, wide in pairwise(widths)
            if wide - narrow == step
        )

    def __str__(self) -> str:
        times = ", ".join(f"{width}: {ms:.2f}" for width, ms in self.milliseconds.items())
        return f"{self.engine} {self.variant} ({times} ms)"


def channel_step(config: Prune) -> tuple[int, str]:
    """The multiple that the channels of a layer stay, and why, for the report: that of the recipe
    (""), or the one that every CPU engine here feels in INT8, or the engine of a latency target in
    its variant. Measures for seconds, once for a machine and a version. Raises EngineError."""
    if config.round_to != "auto":
        return config.round_to, ""
    if config.latency is not None:
        pairs = {config.latency.engine: config.latency.variant}
    else:
        pairs = {name: of for name, of in _VARIANTS.items() if unavailable_reason(name) is None}
    curves = [curve(engine, variant) for engine, variant in pairs.items()]
    step = max(one.step() for one in curves)
    return step, (
        f"multiples of {step}, the smallest step of channels that saves time in "
        f"{'; '.join(map(str, curves))}"
    )


@functools.cache
def curve(engine: str, variant: str) -> Curve:
    """The curve of an engine here, from the cache or measured. Raises EngineError."""
    facts = [machine(), cpu_features(), engine, engine_version(engine), variant]
    settings = ["seconds", _CHANNELS, _LAYERS, _SIDE, _BATCH]
    key = hashlib.sha256(json.dumps([facts, settings]).encode()).hexdigest()[:16]
    file = _CACHE.expanduser() / f"{key}.json"
    seconds = read_cached(file) or {}
    if tuple(seconds) != _CHANNELS:
        log.info("prune: measuring the step of channels in %s %s", engine, variant)
        seconds = {channels: ms / 1e3 for channels, ms in _measured(engine, variant).items()}
        write_cached(file, seconds)
    found = Curve(engine, variant, {channels: 1e3 * one for channels, one in seconds.items()})
    log.info("prune: step of %d channels in %s", found.step(), found)
    return found


def _measured(engine: str, variant: str) -> dict[int, float]:
    with contextlib.ExitStack() as stack:
        loaded = {}
        for channels in _CHANNELS:
            loaded[channels] = _load(engine, variant, channels)
            stack.callback(loaded[channels].close)
        turns = [
            {
                channels: measure_latency(one, _inputs(), (_BATCH,), _SECONDS)[_BATCH]
                for channels, one in loaded.items()
            }
            for _ in range(_TURNS)
        ]
    return {channels: min(turn[channels] for turn in turns) for channels in _CHANNELS}


def _load(engine: str, variant: str, channels: int) -> Engine:
    with tempfile.TemporaryDirectory() as folder:
        float_file, file = Path(folder) / "float.onnx", Path(folder) / "model.onnx"
        onnx.save(_chain(channels), float_file)
        write_variant(float_file, file, variant, _Noise())
        options = EngineOptions(
            precision=precision_of(variant), threads=core_count(), max_batch_size=_BATCH
        )
        return load_engine(engine, file, options)


def _inputs() -> tuple[TensorSpec, ...]:
    return input_specs((_SIDE, _SIDE), 3)


def _chain(channels: int) -> onnx.ModelProto:
    """A network of 3×3 convolutions with ReLU, from images to means over their channels."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Cast", [IMAGE_INPUT], ["pixels"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["x0"], "transpose", perm=[0, 3, 1, 2]),
    ]
    weights = []
    for layer in range(_LAYERS + 1):
        inputs = channels if layer else 3
        values = rng.normal(0, math.sqrt(2 / (9 * inputs)), (channels, inputs, 3, 3))
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        weights += [
            numpy_helper.from_array(values.astype(np.float32), weight),
            numpy_helper.from_array(np.zeros(channels, np.float32), bias),
        ]
        made = f"made{layer}"
        nodes += [
            helper.make_node(
                "Conv", [f"x{layer}", weight, bias], [made], f"conv{layer}", pads=[1, 1, 1, 1]
            ),
            helper.make_node("Relu", [made], [f"x{layer + 1}"], f"relu{layer}"),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", [f"x{_LAYERS + 1}"], ["means"], "pool"),
        helper.make_node("Flatten", ["means"], ["logits"], "flatten"),
    ]
    image = helper.make_tensor_value_info(
        IMAGE_INPUT, TensorProto.UINT8, ["batch", _SIDE, _SIDE, 3]
    )
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", channels])
    graph = helper.make_graph(nodes, "chain", [image], [logits], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


class _Noise:
    """Random pixels: the speed of a network does not depend on its ranges."""

    def __len__(self) -> int:
        return 1

    def feeds(self, size: int) -> Iterator[Mapping[str, Array]]:
        """One image."""
        pixels = np.random.default_rng(0).integers(0, 256, (1, _SIDE, _SIDE, 3), np.uint8)
        yield {IMAGE_INPUT: pixels}
