"""INT8 after training on twelve networks: accuracy lost, and layers that stay in FP32 for a gate,
as biases are corrected, channels equalised and weights rounded adaptively.

Networks are trained on CIFAR-10's JPEGs, a part of them with --quick, or have published weights; a
trained one is kept in runs/quantization. Each is quantised from one and the same FP32 file, and
answers test images in ONNX Runtime. Mixed precision looks at other images than the ones that are
reported.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.archives import extracted
from benchmarks.job.data import Absent, photographs
from serving.base.machine.cpu import core_count, machine
from serving.base.tensor import Array
from serving.engines import EngineOptions, load_engine
from serving.repository.manifest import Gate
from training.compress.calibration import choose_calibration
from training.compress.mixed_precision import choose_float_layers
from training.compress.quantize import Quantizer
from training.compress.sensitivity import Sensitivity, int8_sensitivity
from training.data.samples import Samples
from training.evaluation.report.tables import print_table
from training.fitting.build import export_fp32
from training.models.export.variants import SCHEMES
from training.pipeline.pipeline import build
from training.pipeline.stages.data import new_build
from training.recipes import Recipe, parse_recipe

RUNS = Path("runs/quantization")
MEASURED = RUNS / "measured"
VARIANTS = ("int8-u8", "int8-s8")
# Layers may stay in FP32 until the answers agree with FP32 so well.
AGREEMENT = 0.98
MOST_FLOAT = 0.5
CALIBRATION = 256
_BATCH = 50

WAYS: dict[str, dict[str, bool]] = {
    "as before": {},
    "equalised": {"equalized": True},
    "adaptive": {"adaptive": True},
    "both": {"equalized": True, "adaptive": True},
}


class Work(NamedTuple):
    """A network. side: of its images. is_published: it comes with weights."""

    name: str
    side: int
    is_published: bool = False


WORKS = {
    work.name.replace("timm/", ""): work
    for work in (
        Work("resnet56_cifar", 32, is_published=True),
        Work("timm/tf_efficientnet_lite0", 224, is_published=True),
        Work("resnet20_cifar", 32),
        Work("mobilenet_v2", 64),
        Work("shufflenet_v2_x1_0", 64),
        Work("mobilenet_v3_small", 64),
        Work("timm/fbnetc_100", 64),
        Work("timm/regnety_002", 64),
        Work("efficientnet_b0", 64),
        Work("resnet18", 64),
        Work("squeezenet1_1", 64),
        Work("googlenet", 64),
    )
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="*", help=f"of {', '.join(WORKS)}; all without")
    parser.add_argument("--quick", action="store_true", help="5,000 images for 6 epochs")
    parser.add_argument("--way", nargs="*", default=list(WAYS), choices=list(WAYS))
    given = parser.parse_args()
    if unknown := sorted(set(given.network) - set(WORKS)):
        parser.error(f"unknown: {', '.join(unknown)}; expected some of {', '.join(WORKS)}")
    print(machine())
    MEASURED.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in given.network or WORKS:
        try:
            rows += measure(WORKS[name], given.way, quick=given.quick)
        except Absent as reason:
            print(f"{name}: left out: {reason}")
    summary(rows, given.way)
    return 0


def measure(work: Work, ways: Collection[str], *, quick: bool) -> list[dict[str, Any]]:
    """A row for each variant and way; rows are kept for further runs."""
    recipe = recipe_of(work, quick=quick)
    built = build(recipe, RUNS, RUNS / "model_repo", until="train")
    current = new_build(recipe, built.folder, RUNS / "model_repo")
    data, rows = current.data, []
    calibration = choose_calibration(data.train, CALIBRATION, 0)
    with tempfile.TemporaryDirectory() as folder:
        float_file = Path(folder) / "float.onnx"
        export_fp32(current, current.network(current.trained_file), float_file)
        test, val = (Answered(samples, float_file, "fp32") for samples in (data.test, data.val))
        for way in ways:
            began = time.monotonic()
            quantizer = Quantizer(float_file, "mse", calibration, **WAYS[way])
            path = Path(folder) / "int8.onnx"
            for variant in VARIANTS:
                quantizer.write(path, SCHEMES[variant])
                seconds = time.monotonic() - began
                found = Answered(data.test, path, "int8")
                mixture = choose_float_layers(variant, Tried(quantizer, val, path), MOST_FLOAT)
                rows.append(
                    {
                        "network": recipe.name,
                        "variant": variant,
                        "way": way,
                        "top-1": 100 * test.right.mean(),
                        "drop": 100 * (test.right.mean() - found.right.mean()),
                        "agreement": 100 * test.agreement(found),
                        "dB": test.decibels(found),
                        "in FP32": len(mixture.float_layers),
                        "layers": len(quantizer.layers),
                        "equalised": len(quantizer.changed),
                        "seconds": seconds,
                    }
                )
    (MEASURED / f"{recipe.name}.json").write_text(json.dumps(rows, indent=1))
    print_table(recipe.name, [{key: told(value) for key, value in row.items()} for row in rows])
    return rows


class Answered:
    """What a file answers to a split, in ONNX Runtime."""

    def __init__(self, samples: Samples, path: Path, precision: str) -> None:
        options = EngineOptions(precision=precision, threads=core_count(), max_batch_size=_BATCH)
        engine = load_engine("onnxruntime", path, options)
        logits, labels = [], []
        for start in range(0, len(samples), _BATCH):
            images, targets = samples.batch(range(start, min(start + _BATCH, len(samples))))
            logits.append(engine.infer({"image": np.ascontiguousarray(images)})["logits"].copy())
            labels.append(targets)
        engine.close()
        self.samples = samples
        self.logits: Array = np.concatenate(logits)
        self.right = self.logits.argmax(axis=1) == np.concatenate(labels)

    def agreement(self, other: "Answered") -> float:
        return float((self.logits.argmax(axis=1) == other.logits.argmax(axis=1)).mean())

    def decibels(self, other: "Answered") -> float:
        """Logits over the error of another's."""
        error = ((self.logits - other.logits) ** 2).mean()
        return float(10 * np.log10((self.logits**2).mean() / error))


class Tried:
    """The trials of mixed precision, as training.compress.mixed_precision has them: the gate is
    agreement with FP32 on validation images."""

    where = "on validation images"

    def __init__(self, quantizer: Quantizer, reference: Answered, path: Path) -> None:
        self._quantizer = quantizer
        self._reference = reference
        self._path = path

    def _agreement(self, path: Path) -> float:
        return self._reference.agreement(Answered(self._reference.samples, path, "int8"))

    def gate(self, variant: str, float_layers: Collection[str]) -> Gate:
        self._quantizer.write(self._path, SCHEMES[variant], float_layers)
        found = self._agreement(self._path)
        return Gate(passed=found >= AGREEMENT, reason=f"agreement {found:.4f}")

    def fp32_passes(self) -> bool:
        return True

    def sensitivity(self, variant: str) -> Sensitivity:
        images = len(self._reference.samples)
        return int8_sensitivity(self._quantizer, variant, self._agreement, images)


def recipe_of(work: Work, *, quick: bool) -> Recipe:
    """A recipe that trains the network, or takes its published weights."""
    name = work.name.replace("timm/", "")
    document: dict[str, Any] = {
        "name": f"{name}-quick" if quick else name,
        "task": "classification",
        "seed": 1,
        "data": {"source": "image_folder", "val_fraction": 0.1, "root": str(cifar10(quick=quick))},
        "transform": {"resize": [work.side, work.side], "filter": "bilinear"},
        "model": {"name": work.name},
        "train": "none",
        "quantize": {},
        "export": {"variants": ["fp32", *VARIANTS]},
        "verify": {},
    }
    if work.name == "timm/tf_efficientnet_lite0":
        images = photographs(RUNS, quick=False)
        document["transform"] = {"resize": 256, "crop": [224, 224], "filter": "bicubic"}
        for override in images.overrides:
            key, _, value = override.partition("=")
            section, _, field = key.partition(".")
            document[section][field] = value
    elif work.is_published:
        weights = Path("../shared/data/weights/resnet56_cifar10.pth")
        if not weights.exists():
            raise Absent(f"{weights} is not there")
        document["model"]["pretrained"] = str(weights)
    else:
        document["augment"] = {"flip": True, "padding_crop": {"pixels": work.side // 8}}
        document["train"] = {
            "epochs": 6 if quick else 20,
            "batch_size": 64,
            # By SGD mobile networks learn next to nothing in a few hundred steps.
            "optimizer": {"name": "adamw", "lr": 0.002, "weight_decay": 0.05},
            "schedule": {"name": "one_cycle", "warmup": 0.3},
            "keep": "last",
        }
    return parse_recipe(document)


def cifar10(*, quick: bool) -> Path:
    """The folder of images; quick: 500 a class to train on and 200 to test."""
    whole = extracted("cifar10")
    part = RUNS / "data" / "cifar10"
    if not quick:
        return whole
    for split, count in (("train", 500), ("test", 200)):
        for folder in sorted((whole / split).iterdir()):
            target = part / split / folder.name
            target.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.iterdir())[:count]:
                if not (target / file.name).exists():
                    shutil.copy(file, target)
    return part


def told(value: Any) -> Any:
    return f"{value:.2f}" if isinstance(value, float) else value


def summary(rows: Collection[dict[str, Any]], ways: Collection[str]) -> None:
    """The means over networks, by variant and way."""
    means = []
    for variant in VARIANTS:
        for way in ways:
            of = [row for row in rows if (row["variant"], row["way"]) == (variant, way)]
            mean = {
                key: float(np.mean([row[key] for row in of])) for key in ("drop", "agreement", "dB")
            }
            left, layers = (sum(row[key] for row in of) for key in ("in FP32", "layers"))
            means.append(
                {"variant": variant, "way": way, "networks": len(of)}
                | {key: told(value) for key, value in mean.items()}
                | {"in FP32": f"{left} of {layers}"}
            )
    print_table("means over the networks", means)


if __name__ == "__main__":
    sys.exit(main())
