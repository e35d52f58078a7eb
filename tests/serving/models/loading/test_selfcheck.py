"""What vouches for a variant here, checked with an engine whose answers the test decides."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from serving.base.errors import InvalidManifest, SelfCheckFailed
from serving.base.evaluation import answer_distance
from serving.base.files import sha256
from serving.base.tensor import Array, TensorSpec
from serving.models.loading.selfcheck import (
    check_answers,
    check_checksum,
    check_files,
    check_gate,
    on_this_machine,
    published_samples,
)
from serving.repository.manifest import Gate, Manifest, Variant, read_manifest
from tests.support.published import publish


class Colours:
    """Answers with the channel means times 10; batches of `wrong_from` rows and more with twice
    that, as an engine does that goes wrong only in one of its ways."""

    name = "onnxruntime"
    inputs = (TensorSpec("image", "UINT8", (-1, 8, 8, 3)),)
    outputs = (TensorSpec("logits", "FP32", (-1, 3)),)
    device_bytes = 0
    largest_batch = 0
    check_rows = 16
    overlap_rows = 0

    def __init__(self, wrong_from: int = 1000) -> None:
        self.wrong_from = wrong_from
        self.batches: list[int] = []

    def allocate(self, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
        return np.empty(shape, spec.dtype)

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        rows = len(inputs["image"])
        self.batches.append(rows)
        means = inputs["image"].mean(axis=(1, 2)).astype(np.float32) * 10 / 255
        return {"logits": means * (2 if rows >= self.wrong_from else 1)}

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return publish(tmp_path)


def manifest_of(folder: Path) -> Manifest:
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


def check(folder: Path, engine: Colours, rows: int = 32) -> None:
    manifest = manifest_of(folder)
    samples = published_samples(folder, manifest, engine.inputs, engine.outputs)
    if samples is not None:
        check_answers(samples, manifest.variants[0], engine, engine.inputs, rows)


def test_samples_are_run_alone_and_in_a_batch_that_uses_every_way(folder: Path) -> None:
    engine = Colours()
    check(folder, engine)
    # One alone, and the six samples, repeated until check_rows are reached.
    assert engine.batches == [1, 18]
    engine = Colours()
    check(folder, engine, rows=4)
    assert max(engine.batches) == 4


@pytest.mark.parametrize("wrong_from", [1, 16])
def test_answers_that_differ_are_refused(wrong_from: int, folder: Path) -> None:
    with pytest.raises(SelfCheckFailed, match="answers wrongly on this machine"):
        check(folder, Colours(wrong_from))


class SlightlyOff(Colours):
    """Answers the first sample a little higher in one place."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def infer(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        logits = super().infer(inputs)["logits"]
        logits[0, 0] += self.error
        return {"logits": logits}


def test_the_first_sample_alone_is_held_to_the_tolerance_of_all(folder: Path) -> None:
    manifest = manifest_of(folder)
    engine = SlightlyOff(0.0)
    samples = published_samples(folder, manifest, engine.inputs, engine.outputs)
    assert samples is not None
    evidence = manifest.variants[0].evidence[engine.name]
    wanted = samples.answers["logits"]

    def distance(error: float, rows: int) -> float:
        given = wanted[:rows].copy()
        given[0, 0] += error
        return answer_distance(wanted[:rows], given)

    error = 0.9 * evidence.samples_tolerance / distance(1.0, len(wanted))
    assert distance(error, 1) > evidence.samples_tolerance
    for engine in (SlightlyOff(error), SlightlyOff(2 * error)):
        args = samples, manifest.variants[0], engine, engine.inputs, 32
        if engine.error > error:
            with pytest.raises(SelfCheckFailed, match="answers wrongly on this machine"):
                check_answers(*args, briefly=True)
        else:
            check_answers(*args, briefly=True)
        assert engine.batches == [1]


def test_samples_that_cannot_be_read_are_refused(folder: Path) -> None:
    (folder / "samples.npz").write_bytes(b"damaged")
    with pytest.raises(SelfCheckFailed, match=r"samples\.npz: cannot be read"):
        check(folder, Colours())


def test_nothing_is_run_without_samples(folder: Path) -> None:
    (folder / "samples.npz").unlink()
    engine = Colours()
    check(folder, engine)
    assert engine.batches == []


def test_a_file_replaced_by_one_of_its_size_and_time_is_another(folder: Path) -> None:
    file, variant = folder / "model.onnx", manifest_of(folder).variants[0]
    check_checksum(file, variant.sha256)
    stat = file.stat()
    other = folder / "other"
    other.write_bytes(bytes(reversed(file.read_bytes())))
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    other.replace(file)
    with pytest.raises(SelfCheckFailed, match="sha256 is"):
        check_checksum(file, variant.sha256)
    file.unlink()
    with pytest.raises(SelfCheckFailed, match="cannot be read"):
        check_checksum(file, variant.sha256)


def test_the_gate_is_that_of_the_engine(tmp_path: Path, folder: Path) -> None:
    variant = manifest_of(folder).variants[0]
    assert check_gate(variant, "onnxruntime").gate.passed
    with pytest.raises(SelfCheckFailed, match="was not verified in tensorrt"):
        check_gate(variant, "tensorrt")
    failed = publish(tmp_path, "failed", gate=Gate(passed=False, reason="drops 3 points"))
    with pytest.raises(SelfCheckFailed, match="drops 3 points"):
        check_gate(manifest_of(failed).variants[0], "onnxruntime")


def test_a_machine_without_a_gpu_adds_nothing(folder: Path) -> None:
    manifest = manifest_of(folder)
    assert on_this_machine(folder, manifest, 8, folder) is manifest


def with_data(folder: Path) -> Variant:
    """The published variant with its weights in a file of their own, which its manifest lists."""
    model = onnx.load(folder / "model.onnx")
    onnx.save(
        model, folder / "model.onnx", save_as_external_data=True, location="w.bin",
        size_threshold=0,
    )  # fmt: skip
    sums = {name: sha256(folder / name) for name in ("model.onnx", "w.bin")}
    update = {"sha256": sums["model.onnx"], "data": {"w.bin": sums["w.bin"]}}
    return manifest_of(folder).variants[0].model_copy(update=update)


def test_weights_in_another_file_are_part_of_what_was_published(folder: Path) -> None:
    variant = with_data(folder)
    check_files(folder / "model.onnx", variant)
    (folder / "w.bin").write_bytes(bytes((folder / "w.bin").stat().st_size))
    with pytest.raises(SelfCheckFailed, match=r"w\.bin: sha256 is"):
        check_files(folder / "model.onnx", variant)


def test_weights_that_the_manifest_does_not_list_are_refused(folder: Path) -> None:
    variant = with_data(folder).model_copy(update={"data": {}})
    with pytest.raises(SelfCheckFailed, match=r"\['w\.bin'\], of which the manifest"):
        check_files(folder / "model.onnx", variant)


def test_a_link_out_of_the_version_tells_nothing_of_its_target(
    tmp_path: Path, folder: Path
) -> None:
    secret = tmp_path / "secret.onnx"
    (folder / "model.onnx").rename(secret)
    (folder / "model.onnx").symlink_to(secret)
    variant = manifest_of(folder).variants[0].model_copy(update={"sha256": "0" * 64})
    with pytest.raises(SelfCheckFailed, match="is a link that leads out") as refusal:
        check_files(folder / "model.onnx", variant)
    assert sha256(secret) not in refusal.value.detail


@pytest.mark.parametrize("name", ["/etc/passwd", "../2/model.onnx", "a/b.onnx", "..", "x\0"])
def test_a_manifest_names_files_of_its_version(name: str, folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    document = json.loads(text)
    document["variants"][0]["file"] = name
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(InvalidManifest, match=r"variants\.0\.file: .* a file in the version's"):
        read_manifest(folder)
