"""Ranges on calibration images: merged batch by batch, exact in the end, and nothing is kept."""

import gc
import hashlib
import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod
from onnxruntime.quantization.calibrate import create_calibrator
from torch import nn

from training.compress import calibration
from training.compress.calibration import Method, Ranges, choose_calibration, measure_ranges
from training.compress.observed import PERCENTILE, Observed
from training.data.samples import ArraySamples, Pair
from training.errors import ExportError
from training.models import build_model
from training.models.export.deployed import Deployed, input_specs, output_specs
from training.models.export.to_onnx import export_onnx
from training.recipes.data import Normalization

SIZE = (16, 16)
KINDS: dict[str, Callable[[np.random.Generator], NDArray[np.floating]]] = {
    "normal": lambda rng: rng.normal(0.3, 2, 19_997),
    "behind a ReLU": lambda rng: np.maximum(rng.normal(-1, 1, 19_997), 0),
    "heavy tails": lambda rng: rng.standard_cauchy(19_997),
    "negative": lambda rng: -rng.exponential(1e-3, 19_997),
    "powers of two": lambda rng: 2.0 ** rng.integers(-30, 30, 19_997),
    "zero": lambda rng: np.zeros(101),
    "one value": lambda rng: np.full(101, 4.0),
    "tiny": lambda rng: rng.normal(0, 1e-25, 1_013),
    "huge": lambda rng: rng.normal(0, 1e38, 1_013).clip(-3e38, 3e38),
}


def values_of(kind: str) -> NDArray[np.float32]:
    return np.asarray(KINDS[kind](np.random.default_rng(0)), np.float32)


def observed(batches: Sequence[NDArray[np.float32]]) -> Observed:
    seen = Observed(binned=True)
    for batch in batches:
        seen.add(batch)
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_batches_merge_into_what_all_values_at_once_give(kind: str) -> None:
    values = values_of(kind)
    once = observed([values])
    # Ascending magnitudes: every batch goes beyond the histogram so far.
    growing = values[np.argsort(np.abs(values))]
    for order in (values, growing, growing[::-1]):
        merged = observed(np.array_split(order, 37))
        assert (merged.lowest, merged.highest) == (once.lowest, once.highest)
        assert merged.exponent == once.exponent
        np.testing.assert_array_equal(merged.counts, once.counts)
    assert once.counts is not None
    assert once.counts.sum() == len(values)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("percent", [99.99, 99.0, 50.0])
@pytest.mark.parametrize("kind", KINDS)
def test_percentiles_are_exact_to_one_bin_of_the_largest_magnitude(
    kind: str, percent: float, symmetric: bool
) -> None:
    values = values_of(kind)
    low, high = observed(np.array_split(values, 7)).percentile(percent, symmetric=symmetric)
    bin_width = np.abs(values).max() / 2048
    tail = (100 - percent) / 100
    if symmetric:
        right = np.quantile(np.abs(values), 1 - tail, method="inverted_cdf")
        left = -right
    else:
        left = np.quantile(values, tail / 2, method="inverted_cdf")
        right = np.quantile(values, 1 - tail / 2, method="inverted_cdf")
    assert left - bin_width <= low <= left
    assert right <= high <= right + bin_width
    outside = np.abs(values) > high if symmetric else (values < low) | (values > high)
    assert outside.mean() <= tail + 1e-9


def test_values_below_the_finest_bins_keep_their_extremes() -> None:
    values = np.linspace(-1e-38, 1e-38, 1000, dtype=np.float32)
    low, high = observed([values]).percentile(90, symmetric=False)
    assert (low, high) == (values.min(), values.max())


def test_a_percentile_without_a_histogram_is_refused() -> None:
    with pytest.raises(ValueError, match="histogram"):
        Observed(binned=False).percentile(99, symmetric=False)


def rounding_error(values: NDArray[np.float32], low: float, high: float) -> float:
    step = (high - low) / 255
    zero = round(-low / step)
    rounded = (np.rint(values / step).clip(-zero, 255 - zero) * step).astype(np.float64)
    return float(((values - rounded) ** 2).mean())


@pytest.mark.parametrize("kind", ["normal", "behind a ReLU", "heavy tails", "negative"])
def test_the_range_of_least_error_rounds_better_than_any_other(kind: str) -> None:
    values = values_of(kind)
    seen = observed(np.array_split(values, 7))
    least = rounding_error(values, *map(float, seen.least_error(symmetric=False)))
    low, high = (float(end) for end in seen.extremes(symmetric=False))
    others = [
        rounding_error(values, left * min(low, 0), right * max(high, 0))
        for left in np.linspace(0.25, 1, 16)
        for right in np.linspace(0.25, 1, 16)
    ]
    assert least <= 1.02 * min(others)


@pytest.mark.parametrize("symmetric", [True, False])
def test_the_range_of_least_error_keeps_a_peak_at_its_end(symmetric: bool) -> None:
    values = np.minimum(np.maximum(np.random.default_rng(0).normal(3, 4, 9_999), 0), 6)
    low, high = observed([values.astype(np.float32)]).least_error(symmetric=symmetric)
    assert high == 6
    assert low == (-6 if symmetric else 0)


@pytest.mark.parametrize("kind", ["zero", "one value", "tiny"])
def test_a_range_of_least_error_is_there_for_values_without_spread(kind: str) -> None:
    low, high = observed([values_of(kind)]).least_error(symmetric=False)
    assert low <= 0 <= high


def test_means_over_images_do_not_depend_on_batches() -> None:
    values = np.random.default_rng(0).normal(1, 1, (10, 3, 5, 5)).astype(np.float32)
    seen = Observed(binned=False, axis=1)
    for start in range(0, 10, 4):
        seen.add(values[start : start + 4])
    # Of another size than the first: left out.
    seen.add(values[:, :, :4])
    np.testing.assert_allclose(seen.mean(), values.mean(0), rtol=1e-5)
    assert Observed(binned=False).mean() is None


@pytest.mark.parametrize("axis", [1, -1])
def test_of_large_images_the_mean_of_the_channels_is_kept(axis: int) -> None:
    values = np.random.default_rng(0).normal(1, 1, (4, 3, 70, 70)).astype(np.float32)
    values = values if axis == 1 else np.ascontiguousarray(values.transpose(0, 2, 3, 1))
    seen = Observed(binned=False, axis=axis)
    seen.add(values[:3])
    seen.add(values[3:])
    others = (0, 2, 3) if axis == 1 else (0, 1, 2)
    np.testing.assert_allclose(seen.mean(), values.mean(others), rtol=1e-5)


def test_pixels_are_not_cut(float_file: Path, tmp_path: Path) -> None:
    ranges = measured(float_file, tmp_path, "mse", Images(8))
    pixels, *_ = ranges.observed
    seen = ranges.observed[pixels]
    found = ends(ranges)
    assert found[pixels] == tuple(float(end) for end in seen.extremes(symmetric=False))
    assert any(
        found[name] != tuple(float(end) for end in other.extremes(symmetric=False))
        for name, other in ranges.observed.items()
    )


class Images(ArraySamples):
    """Remembers how many images were asked for at a time, and which of them are still alive."""

    def __init__(self, count: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3), np.uint8)
        super().__init__(pixels, np.zeros(count, np.int64))
        self.asked: list[int] = []
        self.alive: list[int] = []
        self._given: list[weakref.ref[NDArray[np.uint8]]] = []

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        images, targets = super().batch(indices)
        self.asked.append(len(images))
        self.alive.append(sum(given() is not None for given in self._given))
        self._given.append(weakref.ref(images))
        return images, targets


@pytest.fixture(scope="module")
def float_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return exported(build_model("resnet20_cifar", 4), tmp_path_factory.mktemp("float"))


def exported(network: nn.Module, folder: Path) -> Path:
    deployed = Deployed(network.eval(), "classification", Normalization())
    path = folder / "model.onnx"
    export_onnx(deployed, input_specs(SIZE), output_specs("classification", 4, SIZE), 20, path)
    return path


def measured(float_file: Path, folder: Path, method: Method, samples: ArraySamples) -> Ranges:
    model = onnx.shape_inference.infer_shapes(onnx.load(float_file))
    nodes = [node.name for node in model.graph.node]
    chosen = choose_calibration(samples, len(samples), 0)
    return measure_ranges(model, folder, nodes, method, chosen)


def ends(ranges: Ranges, *, symmetric: bool = False) -> dict[str, tuple[float, float]]:
    return {
        name: (float(data.lowest[0]), float(data.highest[0]))
        for name, data in ranges.data(symmetric=symmetric).items()
    }


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """All images in batches of 8."""

    def __init__(self, samples: ArraySamples) -> None:
        self._batches = iter(np.split(samples.images, len(samples) // 8))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_ranges_are_those_of_onnx_runtimes_own_calibration(
    float_file: Path, tmp_path: Path, method: Method, symmetric: bool
) -> None:
    samples = Images(24)
    found = measured(float_file, tmp_path, method, samples)
    minmax = method == "minmax"
    theirs = create_calibrator(
        float_file,
        augmented_model_path=str(tmp_path / "theirs.onnx"),
        calibrate_method=CalibrationMethod.MinMax if minmax else CalibrationMethod.Percentile,
        extra_options={"symmetric": symmetric} | ({} if minmax else {"percentile": PERCENTILE}),
    )
    theirs.collect_data(Reader(samples))
    expected = theirs.compute_data()
    assert set(found.observed) == set(expected.keys())
    for name, (low, high) in ends(found, symmetric=symmetric).items():
        low_there, high_there = (float(np.ravel(end)[0]) for end in expected[name].range_value)
        if minmax:
            assert (low, high) == (low_there, high_there), name
            continue
        if symmetric:
            # Theirs cuts one side at the extreme; its quantiser takes the larger magnitude.
            high_there = max(abs(low_there), abs(high_there))
            low_there = -high_there
        # Each is within a bin of the exact percentile.
        peak = float(max(map(abs, found.observed[name].extremes(symmetric=True))))
        assert low == pytest.approx(low_there, abs=2 * peak / 1024), name
        assert high == pytest.approx(high_there, abs=2 * peak / 1024), name


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_ranges_do_not_depend_on_how_many_images_or_tensors_a_run_holds(
    float_file: Path, tmp_path: Path, method: Method, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = Images(24)
    expected = ends(measured(float_file, tmp_path, method, samples))
    one_image = 4 * 16 * 16 * 16 * 60
    for run_bytes, largest in ((7 * one_image, 23), (one_image // 8, 1)):
        monkeypatch.setattr(calibration, "RUN_BYTES", run_bytes)
        samples.asked.clear()
        found = ends(measured(float_file, tmp_path, method, samples))
        assert set(found) == set(expected)
        for name, pair in expected.items():
            # Means over 4x4 pixels are added up in another order where a buffer begins elsewhere.
            assert found[name] == pytest.approx(pair, rel=1e-6), name
        # The first read is that of the digest.
        assert max(samples.asked[1:]) <= largest
    assert len(samples.asked) > 1 + 24, "the network ran once for each group of tensors"


def test_nothing_of_a_batch_outlives_it(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = {}
    add = Observed.add
    for count in (64, 256):
        seen: list[weakref.ref[NDArray[np.float32]]] = []
        alive: list[int] = []

        def watched(
            self: Observed,
            values: NDArray[np.float32],
            seen: list[weakref.ref[NDArray[np.float32]]] = seen,
            alive: list[int] = alive,
        ) -> None:
            seen.append(weakref.ref(values))
            alive.append(sum(value() is not None for value in seen))
            add(self, values)

        samples = Images(count)
        with monkeypatch.context() as patch:
            patch.setattr(Observed, "add", watched)
            ranges = measured(float_file, tmp_path, "percentile", samples)
        gc.collect()
        assert all(value() is None for value in seen)
        assert max(samples.asked) <= 32
        # While one batch is read, at most the one before it is still in hand.
        assert max(samples.alive) <= 1
        most[count] = max(alive)
        assert most[count] <= len(ranges.observed)
    assert most[64] == most[256]


def test_the_digest_is_that_of_all_images_at_once() -> None:
    samples = Images(70)
    rows = np.sort(np.random.default_rng(3).permutation(70)[:50])
    expected = hashlib.sha256(str((50, *SIZE, 3)).encode() + samples.images[rows].tobytes())
    chosen = choose_calibration(samples, 50, 3)
    assert chosen.sha256 == expected.hexdigest()
    assert samples.asked == [32, 18]
    assert [len(batch) for batch in chosen.batches(20)] == [20, 20, 10]


class Overflowing(nn.Module):
    """Its answers are infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        nn.init.constant_(self.conv.weight, 3e38)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answers: torch.Tensor = self.conv(images * 1000).mean(dim=(2, 3))
        return answers


def test_a_tensor_that_is_not_finite_is_named(tmp_path: Path) -> None:
    path = exported(Overflowing(), tmp_path)
    with pytest.raises(ExportError, match=r"calibration: tensor \S+ holds values that are not fin"):
        measured(path, tmp_path, "minmax", Images(2))


def test_the_log_says_what_memory_is_needed_and_warns_where_it_is_short(
    float_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    measured(float_file, tmp_path, "minmax", Images(4))
    assert "tensors on 4 images, 32 at a time; takes about" in caplog.text
    assert "warning" not in caplog.text
    monkeypatch.setattr(calibration, "free_memory", lambda: 1_000_000)
    measured(float_file, tmp_path, "minmax", Images(4))
    assert "only 0.0 GB of memory are free" in caplog.text


def test_memory_that_runs_out_in_a_run_is_an_error_of_the_build(
    float_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*arguments: object) -> None:
        raise MemoryError("12 GB could not be had")

    monkeypatch.setattr(Observed, "add", exhausted)
    with pytest.raises(ExportError, match="4 images at a time: 12 GB could not be had"):
        measured(float_file, tmp_path, "minmax", Images(4))
