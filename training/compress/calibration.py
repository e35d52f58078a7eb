"""INT8 calibration: the images that it looks at, and the ranges of a network's tensors on them.

Batches are merged as they come: a tensor leaves its extremes and a histogram behind, never its
values. Peak memory depends on the network and on RUN_BYTES, not on the number of images.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from training.data.samples import Pixels, Samples
from training.errors import ExportError

log = logging.getLogger(__name__)

Method = Literal["minmax", "percentile"]
Values = NDArray[np.float32]

_RUN_ERRORS = (Fail, InvalidArgument, RuntimeException)

# Percent of the values of a tensor that lie within its range; the rest is cut.
PERCENTILE = 99.99
# Images a run, and images that are decoded together. More save nothing: see RUN_BYTES.
_BATCH = 32
# Bytes of observed tensors that one run may return; peak memory grows with it. Less means fewer
# images a run and, where a single image needs more, that the network runs once for each group of
# tensors: U-Nets on VGG-16 at 480x352 from 0.7 GB an image. More is hardly faster: ResNet-50 takes
# the same time an image at 4 and at 8 images a run (2 cores).
RUN_BYTES = 1 << 30
# Bins of a histogram on either side of 0; a power of two, so that bins can be joined. A bin is at
# most 1/2048 of the largest magnitude; more bins cut more exactly and take 16 bytes each a tensor.
_HALF = 4096
# Values that are binned at a time: temporaries of this many stay in the L2 cache.
_BLOCK = 1 << 16
# The finest histogram reaches to 2**-100: finer ones would need factors beyond float32. Tensors
# whose values are all smaller keep their extremes.
_LEAST_EXPONENT = -100


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


class Observed:
    """Extremes of a tensor and, with `binned`, a histogram of its values.

    The histogram reaches from -2**exponent to 2**exponent. Where a batch goes beyond, the exponent
    grows and neighbouring bins are joined. As borders are powers of two times integers, the counts
    are the same however the values are divided into batches.
    """

    def __init__(self, *, binned: bool) -> None:
        self.lowest = np.float32(np.inf)
        self.highest = np.float32(-np.inf)
        self.counts = np.zeros(2 * _HALF, np.int64) if binned else None
        self.exponent = _LEAST_EXPONENT

    def add(self, values: Values) -> None:
        """Merges values of any shape. Raises ValueError where one of them is not finite."""
        if values.size == 0:
            return
        lowest, highest = values.min(), values.max()
        if not (np.isfinite(lowest) and np.isfinite(highest)):
            raise ValueError("holds values that are not finite")
        self.lowest = min(self.lowest, lowest)
        self.highest = max(self.highest, highest)
        if self.counts is not None:
            peak = max(abs(lowest), abs(highest))
            if peak > 0:
                self._widen(int(np.frexp(peak)[1]))
            self._count(values.reshape(-1))

    def _widen(self, exponent: int) -> None:
        """Joins bins until the histogram reaches to 2**exponent."""
        if self.counts is None or exponent <= self.exponent:
            return
        factor = min(2 ** (exponent - self.exponent), _HALF)
        joined = self.counts.reshape(-1, factor).sum(axis=1)
        kept = len(joined) // 2
        self.counts = np.zeros(2 * _HALF, np.int64)
        self.counts[_HALF - kept : _HALF + kept] = joined
        self.exponent = exponent

    def _count(self, values: Values) -> None:
        assert self.counts is not None
        # Multiplied by a power of two, a value keeps all its bits: no bin is missed by rounding.
        scale = np.float32(_HALF / 2.0**self.exponent)
        for start in range(0, len(values), _BLOCK):
            places = np.floor(values[start : start + _BLOCK] * scale).astype(np.intp) + _HALF
            self.counts += np.bincount(places, minlength=2 * _HALF)

    def extremes(self, *, symmetric: bool) -> tuple[np.float32, np.float32]:
        """Lowest and highest value; with `symmetric` the largest magnitude on both sides."""
        if symmetric:
            peak = max(abs(self.lowest), abs(self.highest))
            return -peak, peak
        return self.lowest, self.highest

    def percentile(self, percent: float, *, symmetric: bool) -> tuple[np.float32, np.float32]:
        """The range outside of which lie at most 100 - `percent` percent of the values, as many on
        either side, or with `symmetric` those of the largest magnitude. Ends are at most one bin
        further out than the exact percentiles, and never beyond the extremes.

        Raises ValueError where no histogram was kept.
        """
        if self.counts is None:
            raise ValueError("expected a histogram")
        lowest, highest = self.extremes(symmetric=symmetric)
        width = 2.0**self.exponent / _HALF
        share = percent / 100
        if symmetric:
            magnitudes = self.counts[_HALF:] + self.counts[_HALF - 1 :: -1]
            end = np.float32(width * (_bin_of(magnitudes, share) + 1))
            return max(lowest, -end), min(highest, end)
        left = width * (_bin_of(self.counts, (1 - share) / 2) - _HALF)
        right = width * (_bin_of(self.counts, (1 + share) / 2) + 1 - _HALF)
        return max(lowest, np.float32(left)), min(highest, np.float32(right))


def _bin_of(counts: NDArray[np.int64], share: float) -> int:
    """The bin in which `share` of the values is reached."""
    running = np.cumsum(counts)
    return int(np.searchsorted(running, share * running[-1]))


@dataclass(frozen=True)
class Ranges:
    """What was observed of each tensor, by name, and how its range is chosen."""

    method: Method
    observed: Mapping[str, Observed]

    def data(self, *, symmetric: bool) -> TensorsData:
        """Ranges as ONNX Runtime's quantiser takes them; a copy, as it changes them."""
        percentile = self.method == "percentile"
        kind = CalibrationMethod.Percentile if percentile else CalibrationMethod.MinMax
        found: dict[str, TensorData] = {}
        for name, seen in self.observed.items():
            if percentile:
                ends = seen.percentile(PERCENTILE, symmetric=symmetric)
            else:
                ends = seen.extremes(symmetric=symmetric)
            lowest, highest = (np.array([end], np.float32) for end in ends)
            found[name] = TensorData(lowest=lowest, highest=highest)
        return TensorsData(kind, found)


def measure_ranges(
    model: onnx.ModelProto,
    folder: Path,
    nodes: Collection[str],
    method: Method,
    calibration: Feeds,
) -> Ranges:
    """Observes the float tensors that the named nodes read and write.

    `model` holds the shapes of its tensors, as far as they can be told, and takes the inputs of
    `calibration`; its external data, where it has any, lies in `folder`.

    Raises ExportError where a value is not finite or memory runs out.
    """
    sizes = _observed_bytes(model.graph, nodes)
    observed = {name: Observed(binned=method == "percentile") for name in sizes}
    groups = _groups(sizes)
    images = max(1, min(_BATCH, RUN_BYTES // max(1, sum(sizes.values()))))
    _tell(model, sizes, groups, images, len(calibration))
    with Progress("quantize: calibration", len(groups) * len(calibration)) as progress:
        for group in groups:
            session = _session(model, folder, group)
            for feed in calibration.feeds(images):
                _observe(session, group, feed, observed)
                # One run, where runs are given.
                progress.advance(len(feed[IMAGE_INPUT]) if IMAGE_INPUT in feed else 1)
    return Ranges(method, observed)


def _observed_bytes(graph: onnx.GraphProto, nodes: Collection[str]) -> dict[str, int]:
    """Bytes that each float tensor of the named nodes takes for one image, in the graph's order."""
    touched = {
        name for node in graph.node if node.name in nodes for name in (*node.input, *node.output)
    }
    touched -= {part.name for part in graph.initializer}
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


def _observe(
    session: onnxruntime.InferenceSession,
    names: Sequence[str],
    feed: Mapping[str, Array],
    observed: Mapping[str, Observed],
) -> None:
    """Runs one batch and merges the tensors into `observed`; nothing of it outlives the call."""
    try:
        answers = session.run(list(names), dict(feed))
        for name, values in zip(names, answers, strict=True):
            observed[name].add(values)
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
    log.info(
        "quantize: ranges of %d tensors on %d images, %d at a time; takes about %.1f GB",
        len(sizes),
        total,
        images,
        needed / 1e9,
    )
    free = free_memory()
    if needed > free:
        log.warning(
            "quantize: warning: only %.1f GB of memory are free; if this process is killed, it "
            "needs a machine or a container with more",
            free / 1e9,
        )
