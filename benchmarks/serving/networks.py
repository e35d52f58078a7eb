"""Networks with random weights, exported and quantised, for benchmarks that measure time only."""

from pathlib import Path

import numpy as np
import torch

from serving.manifest import Normalization
from training.data.samples import ArraySamples
from training.deploy import Deployed, input_specs, output_specs
from training.export import export_onnx
from training.models import build_model
from training.quantize import choose_calibration, quantize

CLASSES = 1000
OPSET = 20
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def export(name: str, folder: Path, side: int = 224) -> dict[str, Path]:
    """fp32, int8-s8 and int8-u8 files of a classifier, by variant; made once a folder."""
    files = {
        variant: folder / f"{name}.{variant}.onnx" for variant in ("fp32", "int8-s8", "int8-u8")
    }
    if all(file.exists() for file in files.values()):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
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
