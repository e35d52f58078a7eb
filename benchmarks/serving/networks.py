"""Networks with random weights, exported and quantised, for benchmarks that measure time only."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import torch

from serving.engines import ENGINES, EngineOptions, load_engine
from serving.manifest import (
    IMAGE_INPUT,
    SAMPLES_FILE,
    EvalTransform,
    Normalization,
    Variant,
    read_manifest,
    write_manifest,
)
from tests.support.published import evidence
from tests.support.published import publish as publish_small
from training.data.samples import ArraySamples
from training.deploy import Deployed, input_specs, output_specs
from training.export import export_onnx
from training.models import build_model
from training.quantize import choose_calibration, quantize

CLASSES = 1000
OPSET = 20
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def export(name: str, folder: Path, side: int = 224, seed: int = 0) -> dict[str, Path]:
    """fp32, int8-s8 and int8-u8 files of a classifier, by variant; made once a folder."""
    files = {
        variant: folder / f"{name}.{variant}.onnx" for variant in ("fp32", "int8-s8", "int8-u8")
    }
    if all(file.exists() for file in files.values()):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    deployed = Deployed(build_model(name, CLASSES), "classification", IMAGENET)
    size = (side, side)
    inputs, outputs = input_specs(size), output_specs("classification", CLASSES, size)
    export_onnx(deployed, inputs, outputs, OPSET, files["fp32"])
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (32, side, side, 3), np.uint8)
    calibration = choose_calibration(ArraySamples(images, np.zeros(32, np.int64)), 32, 0)
    quantize(files["fp32"], files["int8-s8"], "s8", "minmax", calibration)
    quantize(files["fp32"], files["int8-u8"], "u8", "minmax", calibration)
    return files


def config(name: str, side: int = 224, max_batch_size: int = 32) -> str:
    """A config.pbtxt for such a file."""
    return (
        f'name: "{name}"\nplatform: "onnxruntime_onnx"\nmax_batch_size: {max_batch_size}\n'
        f'input {{ name: "image" data_type: TYPE_UINT8 dims: [{side}, {side}, 3] }}\n'
        f'output {{ name: "logits" data_type: TYPE_FP32 dims: [{CLASSES}] }}\n'
        "dynamic_batching { }\n"
    )


def publish(
    repository: Path, name: str, files: dict[str, Path], version: int = 1, side: int = 224
) -> None:
    """One version of a model with these variants, as a build would have published it. INT8 of
    random weights is not held to their FP32 answers."""
    folder = publish_small(repository, name, version=version)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, side, side, 3), np.uint8)
    engine = load_engine("onnxruntime", files["fp32"], EngineOptions())
    np.savez(folder / SAMPLES_FILE, image=images, **engine.infer({IMAGE_INPUT: images}))
    engine.close()
    variants = []
    for variant, source in files.items():
        file = "model.onnx" if variant == "fp32" else f"model.{variant}.onnx"
        shutil.copy(source, folder / file)
        precision = variant.split("-")[0]
        variants.append(
            Variant(
                id=variant,
                file=file,
                sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
                precision="int8" if precision == "int8" else "fp32",
                evidence={
                    engine: evidence(tolerance=0.01 if precision == "fp32" else 100.0)
                    for engine, entry in ENGINES.items()
                    if precision in entry.precisions
                },
            )
        )
    manifest = read_manifest(folder)
    assert manifest is not None
    write_manifest(
        folder,
        manifest.model_copy(
            update={
                "classes": tuple(str(index) for index in range(CLASSES)),
                "transform": EvalTransform(resize=(side, side)),
                "variants": tuple(variants),
            }
        ),
    )
    (repository / name / "config.pbtxt").write_text(config(name, side))
