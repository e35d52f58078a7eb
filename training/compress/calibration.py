"""INT8 calibration: the images that it looks at, and the ranges of a network's tensors on them.

Batches are merged as they come: a tensor leaves its extremes and a histogram behind, never its
values. Peak memory depends on the network and on RUN_BYTES, not on the number of images.
"""

import hashlib
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, RuntimeException
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

from serving.base.machine.memory import free_memory
from serving.base.machine.progress import Progress
from serving.base.task import IMAGE_INPUT
from serving.base.tensor import Array
from training.compress.observed import PERCENTILE, Ends, Observed
from training.data.readers import Pixels
from training.data.samples import Samples
from training.errors import ExportError

log = logging.getLogger(__name__)

Method = Literal["mse", "minmax", "percentile"]

_RUN_ERRORS = (Fail, InvalidArgument, RuntimeException)

# Images a run, and images that are decoded together. More save nothing: see RUN_BYTES.
_BATCH = 32
# Bytes of observed tensors that one run may return; peak memory grows with it. Less means fewer
# images a run and, where a single image needs more, that the network runs once for each group of
# tensors: U-Nets on VGG-16 at 480x352 from 0.7 GB an image. More is hardly faster: ResNet-50 takes
# the same time an image at 4 and at 8 images a run (2 cores).
RUN_BYTES = 1 << 30


class Feeds(Protocol):
    """Inputs on which ranges are measured."""

    def __len__(self) -> int:
        """Number of images, or of runs where a run is not cut."""

    def feeds(self, size: int) -> Iterator[Mapping[str, Array]]:
        """The inputs of one run after another, by name, with at most `size` images each where they
        can be cut."""


@dataclass(frozen=True)
class Calibration:
    """The images on which ranges are measured.

    samples: the split that they are part of.
    rows: their indices in it, ascending, int [N].
    sha256: of their shape and pixels.
    """

    samples: Samples
    rows: NDArray[np.intp]
    sha256: str

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, size: int = _BATCH) -> Iterator[Pixels]:
        """Contiguous uint8 [n, H, W, C] with n at most `size`, read when they are asked for."""
        return _batches(self.samples, self.rows, size)

    def feeds(self, size: int) -> Iterator[Mapping[str, Array]]:
        """The batches as inputs of a network that a build made."""
        return ({IMAGE_INPUT: images} for images in self.batches(size))


@dataclass(frozen=True)
class First:
    """The first images of others, or the first runs where a run is not cut."""

    given: Feeds
    images: int

    def __len__(self) -> int:
        return min(self.images, len(self.given))

    def feeds(self, size: int) -> Iterator[Mapping[str, Array]]:
        """As those of the others, until there are enough."""
        left = len(self)
        for feed in self.given.feeds(min(size, left)):
            yield feed
            left -= _count(feed)
            if left <= 0:
                return


def _count(feed: Mapping[str, Array]) -> int:
    """The images of a run; 1 for a run of something else."""
    return len(feed[IMAGE_INPUT]) if IMAGE_INPUT in feed else 1


def choose_calibration(samples: Samples, count: int, seed: int) -> Calibration:
    """A random subset of the training images, as the evaluation transform shows them; all of them
    where there are fewer than `count`."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(samples))[:count])
    digest = hashlib.sha256()
    for start, images in enumerate(_batches(samples, rows, _BATCH)):
        if start == 0:
            digest.update(str((len(rows), *images.shape[1:])).encode())
        digest.update(images.tobytes())
    return Calibration(samples, rows, digest.hexdigest())


def _batches(samples: Samples, rows: NDArray[np.intp], size: int) -> Iterator[Pixels]:
    for start in range(0, len(rows), size):
        yield np.ascontiguousarray(samples.batch(rows[start : start + size])[0])


@dataclass(frozen=True)
class Ranges:
    """What was observed of each tensor, by name, and how its range is chosen."""

    method: Method
    observed: Mapping[str, Observed]

    @cached_property
    def _symmetric(self) -> Mapping[str, Ends]:
        return {name: self._ends(seen, symmetric=True) for name, seen in self.observed.items()}

    @cached_property
    def _asymmetric(self) -> Mapping[str, Ends]:
        return {name: self._ends(seen, symmetric=False) for name, seen in self.observed.items()}

    def _ends(self, seen: Observed, *, symmetric: bool) -> Ends:
        if self.method == "mse" and seen.counts is not None:
            return seen.least_error(symmetric=symmetric)
        if self.method == "percentile" and seen.counts is not None:
            return seen.percentile(PERCENTILE, symmetric=symmetric)
        return seen.extremes(symmetric=symmetric)

    def data(self, *, symmetric: bool) -> TensorsData:
        """Ranges as ONNX Runtime's quantiser takes them; a copy, as it changes them."""
        found = {
            name: TensorData(
                lowest=np.array([low], np.float32), highest=np.array([high], np.float32)
            )
            for name, (low, high) in (self._symmetric if symmetric else self._asymmetric).items()
        }
        # The quantiser wants a name of its own for the method, and asks no more of it.
        return TensorsData(CalibrationMethod.MinMax, found)

    def means(self) -> dict[str, NDArray[np.float64]]:
        """The mean over the images of the tensors that layers read."""
        means = {name: seen.mean() for name, seen in self.observed.items()}
        return {name: mean for name, mean in means.items() if mean is not None}


def measure_ranges(
    model: onnx.ModelProto,
    folder: Path,
    nodes: Collection[str],
    method: Method,
    calibration: Feeds,
    uncut: Collection[str] = (),
) -> Ranges:
    """Observes the float tensors that the named nodes read and write. Ranges of `uncut` tensors are
    their extremes, whatever the method.

    `model` holds the shapes of its tensors, as far as they can be told, and takes the inputs of
    `calibration`; its external data, where it has any, lies in `folder`.

    Raises ExportError where a value is not finite or memory runs out.
    """
    chosen = [node for node in model.graph.node if node.name in nodes]
    made = {name for node in chosen for name in node.output}
    touched = made | {name for node in chosen for name in node.input}
    axes = _channel_axes(model.graph)
    observed = {}
    for name in _image_bytes(model.graph, touched):
        # Pixels end where they are dense, at black and white: none are cut for a finer grid.
        binned = method == "percentile" or (method == "mse" and name in made)
        binned &= name not in uncut
        observed[name] = Observed(binned=binned, axis=axes.get(name))
    watch(model, folder, observed, calibration, lambda name, values: observed[name].add(values))
    return Ranges(method, observed)


def parted(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """A model with the shapes of its tensors, whose weights lie in a file of `folder`: shape
    inference and the runtime would copy them several times. `model` loses its weights."""
    onnx.save(model, folder / "parted.onnx", save_as_external_data=True)
    return onnx.shape_inference.infer_shapes(model)


def watch(
    model: onnx.ModelProto,
    folder: Path,
    names: Collection[str],
    calibration: Feeds,
    take: Callable[[str, NDArray[np.float32]], None],
) -> None:
    """Runs a network over the images and hands the named float tensors to `take`, as many images at
    a time as RUN_BYTES allows. `model`, `folder` and errors are as for measure_ranges; a ValueError
    of `take` says what is wrong with a tensor."""
    sizes = _image_bytes(model.graph, names)
    groups = _groups(sizes)
    images = max(1, min(_BATCH, RUN_BYTES // max(1, sum(sizes.values()))))
    _tell(model, sizes, groups, images, len(calibration))
    with Progress("quantize: calibration", len(groups) * len(calibration)) as progress:
        for group in groups:
            session = _session(model, folder, group)
            for feed in calibration.feeds(images):
                _run(session, group, feed, take)
                progress.advance(_count(feed))


def _channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """The axis of the channels of each tensor that a layer reads."""
    axes = {"Conv": 1, "Gemm": -1, "MatMul": -1}
    return {node.input[0]: axes[node.op_type] for node in graph.node if node.op_type in axes}


def _image_bytes(graph: onnx.GraphProto, names: Collection[str]) -> dict[str, int]:
    """Bytes that each of the named tensors takes for one image, in the graph's order; of float
    tensors that are no weights."""
    touched = set(names) - {part.name for part in graph.initializer}
    sizes: dict[str, int] = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if value.name in touched and kind.elem_type == onnx.TensorProto.FLOAT:
            # The batch is the one dimension without a number.
            dimensions = [dimension.dim_value or 1 for dimension in kind.shape.dim]
            sizes[value.name] = 4 * int(np.prod(dimensions, dtype=np.int64))
    return sizes


def _groups(sizes: Mapping[str, int]) -> list[list[str]]:
    """Tensors that are observed in one run: all, unless one image's take more than RUN_BYTES."""
    groups: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not groups or filled + size > RUN_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _session(
    model: onnx.ModelProto, folder: Path, names: Sequence[str]
) -> onnxruntime.InferenceSession:
    """A session that returns the named tensors too. Nothing is fused: a fused tensor is not there
    to be seen."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    own = len(model.graph.output)
    known = {value.name for value in model.graph.output}
    values = {value.name: value for value in (*model.graph.input, *model.graph.value_info)}
    model.graph.output.extend(values[name] for name in names if name not in known)
    path = folder / "observed.onnx"
    onnx.save(model, path)
    del model.graph.output[own:]
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(
    session: onnxruntime.InferenceSession,
    names: Sequence[str],
    feed: Mapping[str, Array],
    take: Callable[[str, NDArray[np.float32]], None],
) -> None:
    """Runs one batch and hands out its tensors; nothing of it outlives the call."""
    try:
        answers = session.run(list(names), dict(feed))
        for name, values in zip(names, answers, strict=True):
            take(name, values)
    except ValueError as error:
        raise ExportError(f"calibration: tensor {name} {error}") from error
    except (MemoryError, *_RUN_ERRORS) as error:
        rows = max((len(values) for values in feed.values() if values.ndim), default=1)
        raise ExportError(f"calibration on {rows} images at a time: {error}") from error


def _tell(
    model: onnx.ModelProto,
    sizes: Mapping[str, int],
    groups: Sequence[Sequence[str]],
    images: int,
    total: int,
) -> None:
    """Logs what calibration will do, and warns where memory seems too small for it: a process that
    the kernel kills cannot say so itself."""
    returned = max(sum(sizes[name] for name in group) for group in groups) * images
    # Weights: the graph, its copy on the way to the runtime, and the runtime's two.
    needed = returned + 4 * model.ByteSize()
    log.log(
        # One image is for a network that is only timed.
        logging.INFO if total > 1 else logging.DEBUG,
        "quantize: ranges of %d tensors on %d images, %d at a time; takes about %d MB",
        len(sizes),
        total,
        images,
        max(1, round(needed / 1e6)),
    )
    free = free_memory()
    if needed > free:
        log.warning(
            "quantize: warning: only %.1f GB of memory are free; if this process is killed, it "
            "needs a machine or a container with more",
            free / 1e9,
        )
