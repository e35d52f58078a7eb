"""manifest.json: written, read, and refused with the field that is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving.base.errors import InvalidManifest
from serving.base.evaluation import Estimate
from serving.repository.manifest import (
    SCHEMA_VERSION,
    EvalTransform,
    Evidence,
    Gate,
    Latency,
    Manifest,
    Normalization,
    Provenance,
    Variant,
    read_manifest,
    write_manifest,
)

EVIDENCE = Evidence(
    accuracy=Estimate(value=0.975, low=0.953, high=0.987, n=360),
    drop=Estimate(value=0.0, low=-0.01, high=0.01, n=360),
    agreement=0.99,
    samples_tolerance=0.05,
    latency=Latency(machine="a CPU, 2 cores", milliseconds={1: 0.5, 32: 9.25}),
    gate=Gate(passed=True, reason="drop 0.0000 is within 0.01"),
)
MANIFEST = Manifest(
    task="classification",
    architecture="resnet20_cifar",
    measure="top1",
    transform=EvalTransform(resize=36, crop=(32, 32), filter="bilinear"),
    normalization=Normalization(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    classes=("zero", "één", "二"),
    parameters=270_000,
    gmacs=0.041,
    pruning_ratio=0.3,
    provenance=Provenance(
        recipe="digits", recipe_sha256="ab", run="r", dataset="d", split="test", created="now"
    ),
    variants=(
        Variant(
            id="int8-s8",
            file="model.int8-s8.onnx",
            sha256="cd",
            precision="int8",
            evidence={"ort": EVIDENCE, "ov": EVIDENCE},
            calibration_sha256="ef",
        ),
        Variant(id="fp32", file="model.onnx", sha256="01", precision="fp32", evidence={}),
    ),
)


def edited(folder: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    """A folder whose manifest was changed by hand after it was written."""
    write_manifest(folder, MANIFEST)
    document = json.loads((folder / "manifest.json").read_text())
    edit(document)
    (folder / "manifest.json").write_text(json.dumps(document))
    return folder


def test_what_was_written_is_read_back_equal(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    found = read_manifest(tmp_path)
    assert found == MANIFEST
    assert found is not None
    assert found.variants[0].evidence["ov"].latency.milliseconds == {1: 0.5, 32: 9.25}
    assert found.classes[1:] == ("één", "二")


def test_file_is_json_that_states_its_schema_version(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    text = (tmp_path / "manifest.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["schema_version"] == SCHEMA_VERSION


def test_folder_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_newer_minor_version_with_fields_unknown_here_is_read(tmp_path: Path) -> None:
    def newer(document: dict[str, Any]) -> None:
        document["schema_version"] = "1.7"
        document["carbon"] = {"kilograms": 3}
        document["variants"][0]["sparsity"] = "2:4"
        document["transform"]["antialias"] = True

    found = read_manifest(edited(tmp_path, newer))
    assert found is not None
    assert found.schema_version == "1.7"
    assert found.model_copy(update={"schema_version": SCHEMA_VERSION}) == MANIFEST


def test_manifest_without_channels_is_of_three(tmp_path: Path) -> None:
    def older(document: dict[str, Any]) -> None:
        document["schema_version"] = "1.1"
        del document["transform"]["channels"]

    found = read_manifest(edited(tmp_path, older))
    assert found is not None
    assert found.transform.channels == 3


def test_grey_manifest_is_read_back_equal(tmp_path: Path) -> None:
    grey = MANIFEST.model_copy(
        update={
            "transform": EvalTransform(resize=(28, 28), channels=1),
            "normalization": Normalization(mean=(0.5,), std=(0.25,)),
        }
    )
    write_manifest(tmp_path, grey)
    assert read_manifest(tmp_path) == grey


@pytest.mark.parametrize("version", ["2.0", "0.9", "10.0", "", "next"])
def test_other_major_version_is_refused(tmp_path: Path, version: str) -> None:
    folder = edited(tmp_path, lambda document: document.update(schema_version=version))
    with pytest.raises(InvalidManifest, match=f"schema_version: expected 1.x, got {version}"):
        read_manifest(folder)


@pytest.mark.parametrize("text", ["", "{", '{"task": ', "\x00", "{'task': 1}"])
def test_broken_json_is_refused_by_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InvalidManifest, match=r"manifest\.json: not valid JSON"):
        read_manifest(tmp_path)


def test_bytes_that_are_no_text_are_refused_by_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(b'{"task": "\xff\xfe"}')
    with pytest.raises(InvalidManifest, match=r"manifest\.json: "):
        read_manifest(tmp_path)


def test_json_that_is_no_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[1]")
    with pytest.raises(InvalidManifest, match=r"manifest\.json: schema_version: "):
        read_manifest(tmp_path)


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(InvalidManifest, match=r"manifest\.json: cannot be read: Is a directory"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("edit", "field"),
    [
        (lambda d: d.pop("task"), "document: .*task: missing"),
        (lambda d: d.pop("architecture"), "architecture: Field required"),
        (lambda d: d["transform"].update(channels=4), "transform.channels: Input should be 1 or 3"),
        (lambda d: d["normalization"].update(mean=[0.5]), "normalization: .* got 1 and 3"),
        (lambda d: d.update(task="detection"), "task: .*'classification'"),
        (lambda d: d.update(classes="digits"), "classes: "),
        (lambda d: d["transform"].update(filter="lanczos"), "transform.filter: "),
        (lambda d: d["transform"].update(crop=[32]), r"transform\.crop\.1: "),
        (lambda d: d["transform"].update(resize=[100_000, 100_000]), "transform: .*more than 64,0"),
        (lambda d: d["transform"].update(resize=10**30), r"transform\.resize"),
        (lambda d: d["transform"].update(crop=[0, 1]), r"transform\.crop\.0: "),
        (lambda d: d["transform"].update(crop=[9000, 9000]), "transform: .*more than 64,000,000"),
        (lambda d: d.update(variants=d["variants"] * 50), "variants: .*at most 64"),
        (lambda d: d["variants"][0].update(file="../2/x"), r"variants\.0\.file: .*'../2/x'"),
        (lambda d: d["variants"][0].update(data={"/etc/passwd": ""}), r"variants\.0\.data\."),
        (lambda d: d["variants"][1].update(precision="fp8"), r"variants\.1\.precision: "),
        (
            lambda d: d["variants"][0]["evidence"]["ort"].update(agreement=1.5),
            r"variants\.0\.evidence\.ort\.agreement: .*less than or equal to 1",
        ),
        (
            lambda d: d["variants"][0]["evidence"]["ov"]["accuracy"].pop("n"),
            r"variants\.0\.evidence\.ov\.accuracy\.n: Field required",
        ),
    ],
)
def test_wrong_field_is_named_with_its_path(
    tmp_path: Path, edit: Callable[[dict[str, Any]], None], field: str
) -> None:
    folder = edited(tmp_path, edit)
    with pytest.raises(InvalidManifest, match=rf"manifest\.json: {field}"):
        read_manifest(folder)


def test_manifest_cannot_be_changed_after_it_was_read() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        MANIFEST.task = "segmentation"


@pytest.mark.parametrize(
    ("resize", "crop", "size"),
    [(36, (32, 24), (32, 24)), ((40, 50), None, (40, 50)), ((40, 50), (8, 9), (8, 9))],
)
def test_size_of_what_the_network_sees_is_the_crops_else_the_resizes(
    resize: int | tuple[int, int], crop: tuple[int, int] | None, size: tuple[int, int]
) -> None:
    assert EvalTransform(resize=resize, crop=crop).size == size


def test_shorter_side_without_a_crop_has_no_size() -> None:
    with pytest.raises(ValueError, match=r"resize: 36 .* a crop must follow"):
        _ = EvalTransform(resize=36).size


def test_estimate_prints_value_interval_and_number() -> None:
    assert str(EVIDENCE.accuracy) == "0.9750 [0.9530, 0.9870] (n=360)"
